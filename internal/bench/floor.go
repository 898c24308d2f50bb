package bench

import (
	"net"

	"github.com/valyala/fasthttp"
)

// ServeFloor answers every request on ln with body, by a fasthttp server as it comes. No tracker on this library can be
// cheaper without changing the library's work for a connection, so it is the floor that announces are measured against.
func ServeFloor(ln net.Listener, body []byte) error {
	server := fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) {
		ctx.SetContentType("text/plain")
		ctx.SetBody(body)
	}}
	return server.Serve(ln)
}
