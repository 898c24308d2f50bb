package logx

import (
	"log/slog"
	"sync"
	"time"
)

const (
	// Window is the time in which a message is written once.
	Window = 10 * time.Second
	// Budget is how many lines a second may be written over all messages, and
	// how many at once after a quiet second.
	Budget = 10
	// maxMessages bounds the table. Messages are fixed texts of our own and
	// far fewer; should somebody build them from input, the rest share an entry.
	maxMessages = 256
)

// windows decides which lines are written. It knows nothing of writing.
type windows struct {
	mu       sync.Mutex         // guards all below
	messages map[string]*window // by message
	rest     window             // of messages beyond maxMessages
	tokens   float64            // lines that may be written now, at most Budget
	filled   time.Time          // when tokens was last topped up
	dropped  uint64
}

// window is the state of one message.
type window struct {
	until      time.Time // before it, lines are suppressed
	level      slog.Level
	suppressed uint64 // since the last line written
}

// summary stands for lines that were not written.
type summary struct {
	message    string
	level      slog.Level
	suppressed uint64
}

func newWindows() *windows {
	return &windows{messages: make(map[string]*window), tokens: Budget}
}

// admit reports whether a line is to be written now, and how many like it were
// suppressed before. Suppressing allocates nothing once a message is known.
func (ws *windows) admit(message string, level slog.Level, now time.Time) (ok bool, suppressed uint64) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w := ws.messages[message]
	switch {
	case w != nil:
	case len(ws.messages) < maxMessages:
		w = new(window)
		ws.messages[message] = w
	default:
		w = &ws.rest
	}
	w.level = level
	if now.Before(w.until) || !ws.take(now) {
		w.suppressed++
		ws.dropped++
		return false, 0
	}
	suppressed, w.suppressed = w.suppressed, 0
	w.until = now.Add(Window)
	return true, suppressed
}

// flush returns a summary for each message whose window is over, as far as the
// budget goes, and forgets messages that are quiet.
func (ws *windows) flush(now time.Time) []summary {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	var lines []summary
	sum := func(message string, w *window) (quiet bool) {
		if now.Before(w.until) {
			return false
		}
		if w.suppressed == 0 {
			return true
		}
		if ws.take(now) {
			lines = append(lines, summary{message, w.level, w.suppressed})
			w.suppressed = 0
			w.until = now.Add(Window)
		}
		return false
	}
	for message, w := range ws.messages {
		if sum(message, w) {
			delete(ws.messages, message)
		}
	}
	sum(restMessage, &ws.rest)
	return lines
}

// drain returns a summary for every message with something suppressed.
func (ws *windows) drain() []summary {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	var lines []summary
	for message, w := range ws.messages {
		if w.suppressed > 0 {
			lines = append(lines, summary{message, w.level, w.suppressed})
		}
	}
	if ws.rest.suppressed > 0 {
		lines = append(lines, summary{restMessage, ws.rest.level, ws.rest.suppressed})
	}
	clear(ws.messages)
	ws.rest = window{}
	return lines
}

const restMessage = "other messages"

// take spends a line of the budget, if there is one.
func (ws *windows) take(now time.Time) bool {
	if elapsed := now.Sub(ws.filled); elapsed > 0 {
		ws.tokens = min(ws.tokens+elapsed.Seconds()*Budget, Budget)
		ws.filled = now
	}
	if ws.tokens < 1 {
		return false
	}
	ws.tokens--
	return true
}

func (ws *windows) droppedTotal() uint64 {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return ws.dropped
}
