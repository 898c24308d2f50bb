package console

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"spillway/internal/admin"
	"spillway/internal/config"
)

const (
	// maxAnswerBytes is far above what the API answers; the program at the other end may be another one.
	maxAnswerBytes = 8 << 20
	maxTokenBytes  = 4 << 10

	// Where the units keep their data. The tracker's owner exists only while it runs, so root comes to look there.
	systemdDataDir      = "/var/lib/spillway"
	systemdRelayDataDir = "/var/lib/spillway-relay"
)

// client asks one running spillway. Safe for concurrent use.
type client struct {
	http      *http.Client
	place     place
	token     string
	tokenFrom string // for messages
	timeout   time.Duration
	side      side
}

// side is one of the two admin sides a machine may have.
type side struct {
	program  string // that answers there
	key      string // of the configuration
	public   string // key of what it is often mistaken for
	tokenEnv string
	dataDir  string // of the systemd unit
}

var (
	trackerSide = side{"spillway serve", "admin", "http.listen", "SPILLWAY_ADMIN_TOKEN", systemdDataDir}
	relaySide   = side{"spillway relay", "relay.admin", "relay.listen", "SPILLWAY_RELAY_ADMIN_TOKEN", systemdRelayDataDir}
)

func (c *Ctl) side() side {
	if c.Relay {
		return relaySide
	}
	return trackerSide
}

// of is where the side listens and its token, as cfg has them.
func (s side) of(cfg *config.Config) (listen, token string) {
	if s == relaySide {
		return cfg.Relay.Admin.Listen, cfg.Relay.Admin.Token
	}
	return cfg.Admin.Listen, cfg.Admin.Token
}

// place is where an admin side listens.
type place struct {
	text   string // as the operator knows it
	base   string // URL without a slash at its end
	socket string // path of a unix socket, or ""
}

func (p place) String() string { return p.text }

// parsePlace reads HOST:PORT, unix:/path or a URL. A listener on all addresses is asked on loopback.
func parsePlace(text string) (place, error) {
	bad := fmt.Errorf("--admin: got %q; must be HOST:PORT, unix:/path, http://HOST or https://HOST", text)
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		if path == "" {
			return place{}, bad
		}
		return place{text, "http://localhost", path}, nil
	}
	if strings.Contains(text, "://") {
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return place{}, bad
		}
		base := strings.TrimRight(u.String(), "/")
		return place{base, base, ""}, nil
	}
	host, port, err := net.SplitHostPort(text)
	if _, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil {
		return place{}, bad
	}
	if addr, err := netip.ParseAddr(host); host == "" || err == nil && addr.IsUnspecified() {
		host = "127.0.0.1"
		if addr.Is6() && !addr.Is4In6() {
			host = "::1"
		}
	}
	hostPort := net.JoinHostPort(host, port)
	u := url.URL{Scheme: "http", Host: hostPort} // escapes the zone of an IPv6 address
	return place{hostPort, u.String(), ""}, nil
}

// client finds out whom to ask and with which token. The configuration is read only for what nobody has said: one that is
// broken must not keep the operator from the switches.
func (c *Ctl) client(p *Program) (*client, error) {
	side := c.side()
	token, from := p.getenv(side.tokenEnv), "$"+side.tokenEnv
	if c.TokenFile != "" {
		token, from = "", c.TokenFile
	}
	file := c.TokenFile
	at := c.Admin
	if at == "" || token == "" && file == "" {
		cfg, err := config.Load(p.Src)
		if err != nil {
			return nil, fmt.Errorf("%w\nthe configuration is not needed where --admin and --token-file are given", err)
		}
		listen, configured := side.of(&cfg)
		if at == "" {
			at = listen
		}
		if at == "" {
			return nil, errors.New(side.key + ".listen is empty in this configuration, so there is nobody to ask; set it and restart, or give --admin")
		}
		if token == "" && file == "" {
			token, from, file = configured, side.key+".token of the configuration", ""
			if token == "" {
				file = defaultFile(cfg.DataDir, c.side().dataDir, admin.TokenFile)
				from = file
			}
		}
	}
	place, err := parsePlace(at)
	if err != nil {
		return nil, err
	}
	if file != "" {
		if token, err = readTokenFile(file); err != nil {
			return nil, err
		}
	}
	if !isHeaderWord(token) {
		return nil, fmt.Errorf("token: %s holds a character that no token has; is it the right file?", from)
	}
	client := newClient(place, token, from, c.Timeout)
	client.side = side
	return client, nil
}

func newClient(at place, token, from string, timeout time.Duration) *client {
	transport := &http.Transport{Proxy: nil, MaxIdleConnsPerHost: 1, DisableCompression: true} // the token is for nobody between
	if at.socket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", at.socket)
		}
	}
	// A redirect would carry the token to wherever it points.
	noRedirect := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &client{&http.Client{Transport: transport, CheckRedirect: noRedirect}, at, token, from, timeout, trackerSide}
}

// defaultFile is a file of dataDir, or of the systemd unit's when nobody has named a directory and there is none here.
func defaultFile(dataDir, systemdDir, name string) string {
	file := filepath.Join(dataDir, name)
	if dataDir != config.Default().DataDir {
		return file
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return file
	}
	if _, err := os.Lstat(systemdDir); err == nil {
		return filepath.Join(systemdDir, name)
	}
	return file
}

func readTokenFile(file string) (string, error) {
	f, err := os.Open(file)
	if err == nil {
		defer f.Close()
		var content []byte
		content, err = io.ReadAll(io.LimitReader(f, maxTokenBytes+1))
		if token := string(bytes.TrimSpace(content)); err == nil && token != "" && len(content) <= maxTokenBytes {
			return token, nil
		}
	}
	switch {
	case err == nil:
		return "", fmt.Errorf("token: %s holds no token; name the right file with --token-file", file)
	case errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("token: %w for user %s; try again with sudo, or name a file you may read with --token-file", err, userName())
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("token: %w; it is the file admin.token in the data_dir of the running spillway: name it with --token-file, or give --config as serve has it", err)
	}
	return "", fmt.Errorf("token: %w", err)
}

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return strconv.Itoa(os.Getuid())
}

func isHeaderWord(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// refusedError is an answer that is not 200.
type refusedError struct {
	code int
	why  string // clean
}

func (e *refusedError) Error() string { return e.why }

// ask makes one request below /api/v1/ and returns the answer, decoded and as it came.
func ask[T any](c *client, method, path string, body any) (answer T, raw []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), c.timeout)
	defer cancel()
	return askContext[T](ctx, c, method, path, body)
}

func askContext[T any](ctx context.Context, c *client, method, path string, body any) (answer T, raw []byte, err error) {
	raw, err = c.call(ctx, method, path, body)
	if err != nil {
		return answer, nil, err
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return answer, nil, fmt.Errorf("%s answered something else than this program expects (%w); are both of one version?", c.place, err)
	}
	return answer, raw, nil
}

func (c *client) call(ctx context.Context, method, path string, body any) ([]byte, error) {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			panic("BUG: ctl: " + err.Error())
		}
		content = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.place.base+"/api/v1/"+path, content)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	if method != http.MethodGet {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes+1))
	if err != nil {
		return nil, c.unreachable(err)
	}
	if len(answer) > maxAnswerBytes {
		return nil, fmt.Errorf("%s answers with more than %d MiB; is --admin the admin side of a spillway?", c.place, maxAnswerBytes>>20)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, c.refused(resp.StatusCode, answer)
	}
	return answer, nil
}

// unreachable says what to look at when there was no answer.
func (c *client) unreachable(err error) error {
	var request *url.Error
	if errors.As(err, &request) {
		err = request.Err // without the URL, which says less than --admin
	}
	var netErr net.Error
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s: permission denied for user %s; try again with sudo", c.place, userName())
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("nothing answers at %s; is %s running, and is --admin right?", c.place, c.side.program)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &netErr) && netErr.Timeout():
		return fmt.Errorf("no answer from %s within %s; if --admin is right it is very busy: give it longer with --timeout", c.place, c.timeout)
	}
	return fmt.Errorf("no answer from %s: %s; is %s running, and is --admin right?", c.place, clean(err.Error()), c.side.program)
}

// refused says why the answer was not 200.
func (c *client) refused(code int, answer []byte) error {
	var body struct {
		Error string `json:"error"`
	}
	err := json.Unmarshal(answer, &body)
	switch {
	case code == http.StatusUnauthorized:
		return &refusedError{code, fmt.Sprintf("%s does not take this token (from %s); the right one is in the file admin.token in its data_dir: name it with --token-file", c.place, c.tokenFrom)}
	case err != nil || body.Error == "":
		return &refusedError{code, fmt.Sprintf("%s answered %d %s, which is not how an admin side answers; is --admin the address of %s.listen, and not of %s?", c.place, code, http.StatusText(code), c.side.key, c.side.public)}
	}
	return &refusedError{code, cut(clean(body.Error), 500)}
}

// page is the URL of the operator's page, and what to know about it. What stands behind # is sent to no server.
func (c *client) page() (url_, note string) {
	note = "This URL holds the admin token: whoever has it can switch the tracker off. Do not paste it where others read."
	base := c.place.base
	if c.place.socket != "" {
		base = "http://localhost:7070"
		note += "\nThe admin side is a unix socket, which browsers do not open. From your own machine: ssh -N -L 7070:" + c.place.socket + " THIS_HOST"
	}
	return base + "/#token=" + url.QueryEscape(c.token), note
}
