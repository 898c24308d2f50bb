package admin

import (
	"embed"
	"path"

	"github.com/valyala/fasthttp"
)

// The tracker's page and the relay's: plain files, no build step, nothing from other hosts.
//
//go:embed page relaypage
var pages embed.FS

// sharedFiles of the tracker's page are in the relay's as well.
var sharedFiles = []string{"icon.svg", "page.css", "plot.js", "session.js", "view.js"}

// pagePolicy lets the page load its own files and talk to its own host, and nobody put it in a frame. Trusted types make a
// browser refuse text as HTML, wherever it comes from: user agents are chosen by attackers.
const pagePolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// file is one of the page's, as it is served.
type file struct {
	content     []byte
	contentType string
}

var contentTypes = map[string]string{
	".html": "text/html; charset=utf-8",
	".css":  "text/css; charset=utf-8",
	".js":   "text/javascript; charset=utf-8",
	".svg":  "image/svg+xml",
}

// pageFiles are the tracker's page's files by their paths: /page/NAME, and / for index.html.
func pageFiles() map[string]file { return filesOf("page") }

// relayPageFiles are the relay's, by the same kind of paths.
func relayPageFiles() map[string]file {
	files, tracker := filesOf("relaypage"), pageFiles()
	for _, name := range sharedFiles {
		files["/page/"+name] = tracker["/page/"+name]
	}
	return files
}

func filesOf(dir string) map[string]file {
	entries, err := pages.ReadDir(dir)
	if err != nil {
		panic("BUG: admin: " + err.Error())
	}
	files := make(map[string]file)
	for _, e := range entries {
		content, err := pages.ReadFile(dir + "/" + e.Name())
		contentType := contentTypes[path.Ext(e.Name())]
		if err != nil || contentType == "" {
			panic("BUG: admin: " + dir + "/" + e.Name() + " cannot be served")
		}
		files["/page/"+e.Name()] = file{content, contentType}
	}
	files["/"] = files["/page/index.html"]
	delete(files, "/page/index.html")
	return files
}

func (f file) serve(ctx *fasthttp.RequestCtx) {
	ctx.SetContentType(f.contentType)
	ctx.Response.SetBodyRaw(f.content)
}
