package runner

import (
	"bufio"
	"encoding/json"
	"io"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"switchboard/bridge"
)

// accessLog writes one JSON line a connection. Sessions never wait for it.
type accessLog struct {
	to      io.Writer
	log     *slog.Logger
	records chan bridge.Record
	dropped atomic.Int64
}

// accessBacklog is how many records may wait to be written: those of a full house
// that is severed at once.
const accessBacklog = 1 << 14

func newAccessLog(to io.Writer, log *slog.Logger) *accessLog {
	return &accessLog{to: to, log: log, records: make(chan bridge.Record, accessBacklog)}
}

// accessLine is the wire form of a record.
type accessLine struct {
	Time           time.Time     `json:"time"`
	ID             string        `json:"id"`
	Listener       string        `json:"listener"`
	Host           string        `json:"host"`
	Backend        string        `json:"backend"`
	Epoch          uint64        `json:"epoch"`
	Client         string        `json:"client"`
	BytesToBackend int64         `json:"bytesToBackend"`
	BytesToClient  int64         `json:"bytesToClient"`
	TookMs         float64       `json:"tookMs"`
	Reason         bridge.Reason `json:"reason"`
	Detail         string        `json:"detail,omitempty"`
}

// put takes a record, or counts it as dropped if the backlog is full.
func (a *accessLog) put(r bridge.Record) {
	select {
	case a.records <- r:
	default:
		a.dropped.Add(1)
	}
}

// Run writes until it is told to stop, and then what is left: the sessions have
// all ended by then, since it is the first to start and the last to stop.
func (a *accessLog) Run(signals <-chan os.Signal, ready chan<- struct{}) error {
	out := bufio.NewWriter(a.to)
	encoder := json.NewEncoder(out)
	close(ready)
	var failing bool
	for {
		select {
		case r := <-a.records:
			err := a.write(out, encoder, r)
			if err != nil {
				// A bufio.Writer keeps its first error; the next line gets a new chance.
				out.Reset(a.to)
			}
			if (err != nil) != failing {
				failing = err != nil
				a.log.Error("writing the access log", "failing", failing, "cause", err)
			}
		case <-signals:
			for {
				select {
				case r := <-a.records:
					a.write(out, encoder, r)
				default:
					return nil
				}
			}
		}
	}
}

// write encodes one record and flushes when no other is waiting.
func (a *accessLog) write(out *bufio.Writer, encoder *json.Encoder, r bridge.Record) error {
	line := accessLine{
		Time: r.Began, ID: r.ID, Listener: r.Listener, Host: r.Host, Backend: r.Backend, Epoch: r.Epoch, Client: r.Client,
		BytesToBackend: r.ToBackend, BytesToClient: r.ToClient,
		TookMs: float64(r.Took.Microseconds()) / 1000, Reason: r.Reason,
	}
	if r.Err != nil {
		line.Detail = r.Err.Error()
	}
	if err := encoder.Encode(line); err != nil {
		return err
	}
	if len(a.records) > 0 {
		return nil
	}
	if n := a.dropped.Swap(0); n > 0 {
		a.log.Warn("access log is too slow, records were dropped", "dropped", n)
	}
	return out.Flush()
}
