package table

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"switchboard/bridge/route"
	"switchboard/pacemaker/store"
)

// reader reads the table. Each call has a deadline of its own.
type reader struct {
	client  redis.UniversalClient
	keys    keys
	timeout time.Duration
	// most is how many members of a host are read; 0: all.
	most int64
}

func newReader(client redis.UniversalClient, prefix string, timeout time.Duration) (reader, error) {
	prefix = store.Prefix(prefix)
	return reader{client: client, keys: keys{prefix}, timeout: cmp.Or(timeout, store.DefaultTimeout)}, store.CheckPrefix(client, prefix)
}

// content is what the two keys of a host hold, or why that cannot be had.
type content struct {
	members []string
	fields  map[string]string
	// broken is about this host alone: a key of the wrong type.
	broken error
}

// reading is what came of a content. It is the same in every goroutine.
type reading struct {
	// host is nil if there is none.
	host *route.Host
	// readable is false if what the host is cannot be known.
	readable bool
	rejected []Rejection
}

func (c content) decode(name string, refuse refusal) (r reading) {
	reject := func(rejection Rejection) { r.rejected = append(r.rejected, rejection) }
	switch {
	case c.broken != nil:
		reject(Rejection{Host: name, Kind: RejectedHost, Why: c.broken.Error()})
	case len(c.members) > MaxMembers:
		reject(Rejection{Host: name, Kind: RejectedHost, Why: fmt.Sprintf("it has %d members: at most %d", len(c.members), MaxMembers)})
	default:
		r.host, r.readable = decodeHost(name, c.members, c.fields, refuse, reject), true
	}
	return r
}

func decodeAll(names []string, contents []content, refuse refusal) []reading {
	readings := make([]reading, len(names))
	for i, name := range names {
		readings[i] = contents[i].decode(name, refuse)
	}
	return readings
}

// position is where the table stands, and all of it at one moment.
type position struct {
	serial uint64
	// last is the ID of the last change record, "" if there is none.
	last string
	// present: the record is there that was asked for.
	present bool
}

// look reads the position, whether the record with the ID known is there, and hosts, all at
// the same moment.
func (r reader) look(ctx context.Context, known string, hosts []string) (position, []content, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	pipe := r.client.TxPipeline()
	serial := pipe.Get(ctx, r.keys.serial())
	last := pipe.XRevRangeN(ctx, r.keys.changes(), "+", "-", 1)
	var same *redis.XMessageSliceCmd
	if known != "" {
		same = pipe.XRangeN(ctx, r.keys.changes(), known, known, 1)
	}
	asked := make([]question, len(hosts))
	for i, host := range hosts {
		asked[i] = r.ask(ctx, pipe, host, true)
	}
	if err := exec(ctx, pipe); err != nil {
		if redis.IsExecAbortError(err) {
			// That a command was refused is all that it says; asked alone, one says why.
			pipe := r.client.Pipeline()
			pipe.Get(ctx, r.keys.serial())
			pipe.XRevRangeN(ctx, r.keys.changes(), "+", "-", 1)
			if _, why := pipe.Exec(ctx); why != nil && !errors.Is(why, redis.Nil) {
				err = why
			} else {
				err = errAborted
			}
		}
		return position{}, nil, fmt.Errorf("reading hosts: %w", err)
	}
	var p position
	var err error
	if p.serial, err = serialOf(serial.Result()); err != nil {
		return position{}, nil, fmt.Errorf("reading %s: %w", r.keys.serial(), err)
	}
	records, err := last.Result()
	if err != nil {
		return position{}, nil, fmt.Errorf("reading %s: %w", r.keys.changes(), err)
	}
	if len(records) > 0 {
		p.last = records[0].ID
	}
	if same != nil {
		p.present = len(same.Val()) > 0
	}
	contents, err := answers(asked)
	return p, contents, err
}

// read reads hosts, each at a moment of its own, in one round trip. Those in
// optioned have a HASH; the others are not asked for one.
func (r reader) read(ctx context.Context, hosts []string, optioned map[string]struct{}) ([]content, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	pipe := r.client.Pipeline()
	asked := make([]question, len(hosts))
	for i, host := range hosts {
		_, has := optioned[host]
		asked[i] = r.ask(ctx, pipe, host, has)
	}
	if err := exec(ctx, pipe); err != nil {
		return nil, fmt.Errorf("reading hosts: %w", err)
	}
	return answers(asked)
}

// exec sends a pipeline, and returns the error that is about all of it. The client's own is
// that of any command, which are asked for it one by one; but if there is no connection, or no
// login, it leaves some of them without.
func exec(ctx context.Context, pipe redis.Pipeliner) error {
	commands, err := pipe.Exec(ctx)
	if err == nil {
		return nil
	}
	for _, command := range commands {
		if errors.Is(command.Err(), err) && (fromServer(err) || errors.Is(err, redis.Nil)) {
			return nil
		}
	}
	return err
}

// question is what is asked about one host.
type question struct {
	members *redis.StringSliceCmd
	fields  *redis.MapStringStringCmd // nil: not asked
}

func (r reader) ask(ctx context.Context, pipe redis.Pipeliner, host string, fields bool) question {
	var q question
	if r.most > 0 {
		// With a number that is not below that of the members it gives all of them. Redis takes a
		// third less of its time for it than for SMEMBERS, and what somebody has blown up does not
		// hold up everybody.
		q.members = pipe.SRandMemberN(ctx, r.keys.instances(host), r.most)
	} else {
		q.members = pipe.SMembers(ctx, r.keys.instances(host))
	}
	if fields {
		q.fields = pipe.HGetAll(ctx, r.keys.host(host))
	}
	return q
}

// answers are the contents, or the error that is about more than one host.
func answers(asked []question) ([]content, error) {
	contents := make([]content, len(asked))
	for i, q := range asked {
		errs := [2]error{q.members.Err()}
		contents[i].members = q.members.Val()
		if q.fields != nil {
			contents[i].fields, errs[1] = q.fields.Val(), q.fields.Err()
		}
		for _, err := range errs {
			if redis.HasErrorPrefix(err, "WRONGTYPE") {
				contents[i].broken = errors.New("a key of it has the wrong type: instances:… is a set, host:… a hash")
			} else if err != nil {
				return nil, fmt.Errorf("reading hosts: %w", err)
			}
		}
	}
	return contents, nil
}

// size is how many keys there are, of hosts and of others; 0 if Redis does not tell.
func (r reader) size(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	n, err := r.client.DBSize(ctx).Result()
	if err != nil && !fromServer(err) {
		return 0, fmt.Errorf("counting the keys: %w", err)
	}
	return int(n), nil
}

// key is a key of a host.
type key struct {
	host string
	// options: it is the HASH, not the SET.
	options bool
}

// page is one step of a SCAN for the keys of hosts.
type page struct {
	keys []key
	// next is the cursor of the next one, 0 if this is the last.
	next uint64
	err  error
}

// pages reads up to n pages of about size keys from a cursor on, the next one while one is
// looked at. Who calls takes all of them. One with an error is the last.
func (r reader) pages(ctx context.Context, cursor uint64, n int, size int64) <-chan page {
	pages := make(chan page)
	go func() {
		defer close(pages)
		for range n {
			p := r.page(ctx, cursor, size)
			pages <- p
			if cursor = p.next; p.err != nil || cursor == 0 {
				return
			}
		}
	}()
	return pages
}

func (r reader) page(ctx context.Context, cursor uint64, size int64) (p page) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	// A SCAN is about one node.
	one, err := r.node(ctx)
	if err != nil {
		return page{err: fmt.Errorf("finding the keys: %w", err)}
	}
	found, next, err := one.Scan(ctx, cursor, r.keys.hosts(), size).Result()
	if err != nil {
		return page{err: fmt.Errorf("finding the keys: %w", err)}
	}
	p = page{keys: make([]key, 0, len(found)), next: next}
	for _, name := range found {
		if host, is := strings.CutPrefix(name, r.keys.instances("")); is {
			p.keys = append(p.keys, key{host: host})
		} else if host, is := strings.CutPrefix(name, r.keys.host("")); is {
			p.keys = append(p.keys, key{host: host, options: true})
		}
	}
	return p
}

// record is one entry of the stream of changes.
type record struct {
	id     string
	serial uint64
	host   string
}

// follow reads up to count records after an ID, and waits up to block for the first;
// 0 is not to wait.
func (r reader) follow(ctx context.Context, after string, count int64, block time.Duration) ([]record, error) {
	ctx, cancel := context.WithTimeout(ctx, block+r.timeout)
	defer cancel()
	if block == 0 {
		block = -1 // the client's word for it: 0 would be for ever
	}
	streams, err := r.client.XRead(ctx, &redis.XReadArgs{
		Streams: []string{r.keys.changes(), after}, Count: count, Block: block,
	}).Result()
	if errors.Is(err, redis.Nil) || err == nil && len(streams) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("following %s: %w", r.keys.changes(), err)
	}
	records := make([]record, len(streams[0].Messages))
	for i, message := range streams[0].Messages {
		records[i].id = message.ID
		records[i].serial, records[i].host = recordOf(message)
	}
	return records, nil
}

// recordOf are the serial and the host of a change record; what is broken is 0 and "".
func recordOf(message redis.XMessage) (serial uint64, host string) {
	text, _ := message.Values["serial"].(string)
	serial, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return 0, ""
	}
	host, _ = message.Values["host"].(string)
	return serial, host
}

// info is what Redis says of itself that an operator of the table must know.
type info struct {
	// evicts is the policy by which keys are dropped when memory is short, "" if none.
	evicts string
	// orphaned: it is a replica that does not hear its master.
	orphaned bool
}

// inspect asks for [info]. What a server does not tell is not known.
func (r reader) inspect(ctx context.Context) info {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	pipe := r.client.Pipeline()
	memory, replication := pipe.Info(ctx, "memory"), pipe.Info(ctx, "replication")
	_, _ = pipe.Exec(ctx)
	var i info
	for line := range strings.Lines(memory.Val()) {
		if policy, found := strings.CutPrefix(strings.TrimSpace(line), "maxmemory_policy:"); found && strings.HasPrefix(policy, "allkeys") {
			i.evicts = policy
		}
	}
	i.orphaned = strings.Contains(replication.Val(), "master_link_status:down")
	return i
}

// errAborted is a transaction of reads whose commands Redis would do one by one.
var errAborted = errors.New("the transaction is refused")

// fromServer tells whether err is an answer of Redis, rather than the lack of one.
func fromServer(err error) bool {
	var answer redis.Error
	return errors.As(err, &answer) && !errors.Is(err, redis.Nil) && !errors.Is(err, redis.ErrClosed)
}

// describe is err in words for an operator. It says nothing secret: Redis does not
// send passwords, and errors of connects have addresses only.
func describe(err error) error {
	for _, known := range []struct{ prefix, means string }{
		{"NOAUTH", "Redis wants a password"},
		// What it says, before a login, to a command of more than 10 parts.
		{"ERR Protocol error: unauthenticated", "Redis wants a password"},
		{"WRONGPASS", "Redis refuses the user or the password"},
		{"ERR AUTH", "Redis refuses the password"},
		{"ERR invalid password", "Redis refuses the password"},
		{"NOPERM", "the user may not do that: grant it read access to the keys of the prefix, and +@read +multi +exec +info"},
		{"LOADING", "Redis is loading its data"},
		{"BUSY", "Redis is busy with a script"},
		{"MASTERDOWN", "the replica has lost its master and answers nothing meanwhile"},
		{"READONLY", "this Redis is a replica, to which nothing can be written"},
		{"MISCONF", "Redis cannot save its data and takes no changes"},
		{"OOM", "Redis has no memory left"},
		{"NOREPLICAS", "Redis has too few replicas and takes no changes"},
		{"CLUSTERDOWN", "the Redis Cluster is down"},
		{"MOVED", "this is a node of a Redis Cluster: the URL must begin with redis-cluster://"},
		{"ASK", "this is a node of a Redis Cluster: the URL must begin with redis-cluster://"},
		{"CROSSSLOT", "this is a node of a Redis Cluster: the prefix must carry a hash tag"},
		{"WRONGTYPE", "a key of the table has the wrong type"},
	} {
		var answer redis.Error
		if errors.As(err, &answer) && strings.HasPrefix(answer.Error(), known.prefix) {
			return &failure{known.means, err}
		}
	}
	var timeout net.Error
	switch {
	case errors.Is(err, errAborted):
		return &failure{"Redis takes no transaction, as one that has no memory left", err}
	case fromServer(err) || errors.Is(err, errSerial):
		return &failure{quote(err.Error()), err}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return &failure{"Redis does not answer in time", err}
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		return &failure{"nothing listens at the address of Redis", err}
	case errors.Is(err, net.ErrClosed):
		return &failure{"the connection to Redis was closed here, as when Sentinel has made another master", err}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return &failure{"Redis has closed the connection", err}
	}
	return err
}

// failure is an error in an operator's words.
type failure struct {
	words string
	cause error
}

func (f *failure) Error() string { return f.words }
func (f *failure) Unwrap() error { return f.cause }
