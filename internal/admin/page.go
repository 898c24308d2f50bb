package admin

import (
	"embed"
	"path"

	"github.com/valyala/fasthttp"
)

// The page: plain files, no build step, nothing from other hosts.
//
//go:embed page
var page embed.FS

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

// pageFiles are the page's files by their paths: /page/NAME, and / for index.html.
func pageFiles() map[string]file {
	entries, err := page.ReadDir("page")
	if err != nil {
		panic("BUG: admin: " + err.Error())
	}
	files := make(map[string]file)
	for _, e := range entries {
		content, err := page.ReadFile("page/" + e.Name())
		contentType := contentTypes[path.Ext(e.Name())]
		if err != nil || contentType == "" {
			panic("BUG: admin: page/" + e.Name() + " cannot be served")
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
