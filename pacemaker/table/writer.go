package table

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"switchboard/bridge/route"
)

var (
	// ErrConflict is returned by [Writer.ApplyIf] if the table has another serial than
	// the caller has seen. Nothing was changed: look again, and decide again.
	ErrConflict = errors.New("the table has changed meanwhile")
	// ErrUnknown is wrapped by errors after which nobody knows whether the change was made:
	// Redis did not answer. Repeat it, since a change that is there already changes nothing.
	ErrUnknown = errors.New("it is unknown whether the table was changed")
)

const (
	// DefaultKeep is about how many change records are kept. A router that missed more
	// reads the whole table.
	DefaultKeep = 100_000
	// MaxChanges is how many changes one step may have. A step stops Redis for everybody
	// else while it runs.
	MaxChanges = 1000
	// maxSerial is the highest serial that Lua's numbers count exactly.
	maxSerial = 1 << 53
)

// Change is a wish about one host; make one with [Add], [Remove], [Replace], [Drop],
// [SetWeights] or [SetOptions]. It is checked when it is applied, or by Validate.
type Change struct {
	host string
	// steps are what the script does, each with its name and number of arguments.
	steps []any
	errs  []error
}

func newChange(host string) Change {
	c := Change{host: host}
	if err := validHost(host); err != nil {
		c.errs = append(c.errs, err)
	}
	return c
}

// Validate returns all that is wrong with c, nil if there is nothing.
func (c Change) Validate() error {
	errs := make([]error, len(c.errs))
	for i, err := range c.errs {
		errs[i] = fmt.Errorf("host %s: %w", quote(c.host), err)
	}
	return errors.Join(errs...)
}

func (c *Change) step(name string, arguments ...any) {
	c.steps = append(append(c.steps, name, len(arguments)), arguments...)
}

func (c *Change) wrong(err error) {
	if err != nil {
		c.errs = append(c.errs, err)
	}
}

// members checks members and returns them as they are written.
func (c *Change) members(members []Member) []any {
	texts := make([]any, len(members))
	for i, m := range members {
		c.wrong(m.Validate())
		texts[i] = m.String()
	}
	if len(members) > MaxMembers {
		c.wrong(fmt.Errorf("a host has at most %d members, not %d", MaxMembers, len(members)))
	}
	return texts
}

// Add adds members to a host, which begins to be if it was not there.
func Add(host string, members ...Member) Change {
	c := newChange(host)
	c.step("add", c.members(members)...)
	return c
}

// Remove takes members out of a host, with their weights. A host without members and
// without options is no more.
func Remove(host string, members ...Member) Change {
	c := newChange(host)
	c.step("remove", c.members(members)...)
	weights := make([]any, len(members))
	for i, m := range members {
		weights[i] = weightField + m.Name()
	}
	c.step("unset", weights...)
	return c
}

// Replace makes a host exactly this, whatever it was. Weights are by backend
// name; who has none has 1.
func Replace(host string, o Options, weights map[string]int, members ...Member) Change {
	c := newChange(host)
	c.wrong(o.validate(host))
	fields := o.fields()
	for name, weight := range weights {
		c.weight(name, weight)
		fields[weightField+name] = strconv.Itoa(weight)
	}
	c.step("members", c.members(members)...)
	c.step("fields", pairs(fields)...)
	return c
}

// Drop takes a host out of the table, options and all.
func Drop(host string) Change {
	c := newChange(host)
	c.step("members")
	c.step("fields")
	return c
}

// SetWeights sets weights of a host by backend name ([Member.Name]), from 0, which drains, to
// [route.MaxWeight]. A weight of a backend that is not there waits for it.
func SetWeights(host string, weights map[string]int) Change {
	c := newChange(host)
	fields := make(map[string]string, len(weights))
	for name, weight := range weights {
		c.weight(name, weight)
		fields[weightField+name] = strconv.Itoa(weight)
	}
	c.step("set", pairs(fields)...)
	return c
}

// SetOptions sets the options of a host; members and weights stay as they are.
func SetOptions(host string, o Options) Change {
	c := newChange(host)
	c.wrong(o.validate(host))
	fields := o.fields()
	var absent []any
	for _, field := range []string{policyField, chooseField, stickyField, holdField} {
		if _, set := fields[field]; !set {
			absent = append(absent, field)
		}
	}
	c.step("unset", absent...)
	c.step("set", pairs(fields)...)
	return c
}

func (c *Change) weight(name string, weight int) {
	c.wrong(route.ValidBackendName(name))
	if weight < 0 || weight > route.MaxWeight {
		c.wrong(fmt.Errorf("a weight is a number from 0 to %d, not %d", route.MaxWeight, weight))
	}
}

func pairs(fields map[string]string) []any {
	all := make([]any, 0, 2*len(fields))
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		all = append(all, field, fields[field])
	}
	return all
}

// Result is what became of a step.
type Result struct {
	// Serial is the table's after the step.
	Serial uint64
	// Changed is false if all was as wished before. Then the serial is as it was.
	Changed bool
}

// WriterOptions are what a [Writer] needs.
type WriterOptions struct {
	// Client is as [store.Redis.Connect] makes it. The Writer does not close it. Required.
	Client redis.UniversalClient
	// Prefix is what all keys begin with, as [store.Prefix] has it.
	Prefix string
	// Keep is about how many change records are kept; 0: [DefaultKeep].
	Keep int64
	// Timeout bounds each call; 0: [store.DefaultTimeout].
	Timeout time.Duration
}

// Writer changes the table. Its methods may be called from any goroutine.
type Writer struct {
	reader
	keep int64
}

// NewWriter returns a writer. Its errors are those of the options.
func NewWriter(o WriterOptions) (*Writer, error) {
	r, err := newReader(o.Client, o.Prefix, o.Timeout)
	if err != nil {
		return nil, fmt.Errorf("writing the table: %w", err)
	}
	return &Writer{reader: r, keep: cmp.Or(o.Keep, DefaultKeep)}, nil
}

// Apply makes changes in one atomic step: every reader sees all of them or none. If
// there was anything to change, the serial is incremented once, and each host that
// did change has a change record. All that is wrong with changes is one error, before
// anything is sent.
func (w *Writer) Apply(ctx context.Context, changes ...Change) (Result, error) {
	return w.apply(ctx, "", changes)
}

// ApplyIf is [Writer.Apply] if the table's serial is still serial, else [ErrConflict].
func (w *Writer) ApplyIf(ctx context.Context, serial uint64, changes ...Change) (Result, error) {
	return w.apply(ctx, strconv.FormatUint(serial, 10), changes)
}

func (w *Writer) apply(ctx context.Context, expected string, changes []Change) (Result, error) {
	result, err := w.run(ctx, expected, "record", changes)
	if err != nil {
		return Result{}, fmt.Errorf("changing the table: %w", err)
	}
	return result, nil
}

// run runs the script. The mode is "record", or "silent" to leave serial and records
// alone.
func (w *Writer) run(ctx context.Context, expected, mode string, changes []Change) (Result, error) {
	if len(changes) > MaxChanges {
		return Result{}, fmt.Errorf("one step has at most %d changes, not %d", MaxChanges, len(changes))
	}
	var errs []error
	keys := []string{w.keys.serial(), w.keys.changes()}
	arguments := []any{expected, mode, w.keep}
	for _, c := range changes {
		if err := c.Validate(); err != nil {
			errs = append(errs, err)
		}
		keys = append(keys, w.keys.instances(c.host), w.keys.host(c.host))
		arguments = append(append(arguments, c.host, len(c.steps)), c.steps...)
	}
	if errs != nil {
		return Result{}, errors.Join(errs...)
	}
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	answered, err := w.script(ctx, change, keys, arguments...)
	if err != nil {
		return Result{}, w.outcome(err)
	}
	answer, _ := answered.Int64Slice()
	switch {
	case len(answer) != 2 || answer[0] < 0:
		return Result{}, errors.New("reading an answer of Redis that the script does not give")
	case answer[1] < 0:
		return Result{}, fmt.Errorf("expecting serial %s, finding %d: %w", expected, answer[0], ErrConflict)
	}
	return Result{Serial: uint64(answer[0]), Changed: answer[1] > 0}, nil
}

// outcome adds to an error what it means for the change. An answer of Redis is an
// answer: the script changed nothing, or nothing any more. What could not be sent, as
// there is no connection, has changed nothing either.
func (w *Writer) outcome(err error) error {
	reason := describe(err)
	if redis.HasErrorPrefix(err, "NOPERM") {
		reason = &failure{"the user may not do that: grant it the keys of the prefix, and +@read +@write +eval +evalsha +multi +exec +info", err}
	}
	var dial *net.OpError
	if fromServer(err) || errors.Is(err, errMoving) || errors.As(err, &dial) && dial.Op == "dial" {
		return reason
	}
	return fmt.Errorf("%w: %w", reason, ErrUnknown)
}

// raise sets the serial above what it is and above floor, without a record: every router
// then compares the whole table.
func (w *Writer) raise(ctx context.Context, floor uint64) (uint64, error) {
	if floor >= maxSerial {
		return 0, fmt.Errorf("a serial is below %d, not %d", uint64(maxSerial), floor)
	}
	ctx, cancel := context.WithTimeout(ctx, w.timeout)
	defer cancel()
	answer, err := w.script(ctx, lift, []string{w.keys.serial()}, floor)
	if err != nil {
		return 0, w.outcome(err)
	}
	serial, _ := answer.Int64()
	return uint64(max(serial, 0)), nil
}

// change is the script of all changes. Redis does not undo what a script has done before
// an error, so all that can be wrong with the keys is looked at first.
//
//	KEYS  serial, changes, then for each host its SET and its HASH
//	ARGV  expected serial or "", mode, keep, then for each host its name, how many
//	      values its steps are, and the steps: name, number of arguments, arguments
var change = redis.NewScript(`
local function is(key, kind)
  local found = redis.call('TYPE', key).ok
  if found ~= 'none' and found ~= kind then
    return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. found .. ' and not a ' .. kind)
  end
end
local wrong = is(KEYS[1], 'string') or is(KEYS[2], 'stream')
for i = 3, #KEYS, 2 do
  wrong = wrong or is(KEYS[i], 'set') or is(KEYS[i + 1], 'hash')
end
if wrong then return wrong end

local text = redis.call('GET', KEYS[1]) or '0'
local serial = tonumber(text)
if not string.match(text, '^%d+$') or serial >= 9007199254740991 then
  return redis.error_reply('ERR the serial is not a number that can be counted on')
end
if ARGV[1] ~= '' and tonumber(ARGV[1]) ~= serial then
  return {serial, -1}
end

local function without(key, wanted, list, drop)
  local changed = 0
  for _, have in ipairs(redis.call(list, key)) do
    if not wanted[have] then
      changed = changed + redis.call(drop, key, have)
    end
  end
  return changed
end
local function set(hash, from, to)
  local changed = 0
  for i = from, to, 2 do
    if redis.call('HGET', hash, ARGV[i]) ~= ARGV[i + 1] then
      redis.call('HSET', hash, ARGV[i], ARGV[i + 1])
      changed = changed + 1
    end
  end
  return changed
end
local steps = {}
function steps.add(members, hash, from, to)
  local changed = 0
  for i = from, to do
    changed = changed + redis.call('SADD', members, ARGV[i])
  end
  return changed
end
function steps.remove(members, hash, from, to)
  local changed = 0
  for i = from, to do
    changed = changed + redis.call('SREM', members, ARGV[i])
  end
  return changed
end
function steps.members(members, hash, from, to)
  local wanted = {}
  for i = from, to do
    wanted[ARGV[i]] = true
  end
  return steps.add(members, hash, from, to) + without(members, wanted, 'SMEMBERS', 'SREM')
end
function steps.set(members, hash, from, to)
  return set(hash, from, to)
end
function steps.unset(members, hash, from, to)
  local changed = 0
  for i = from, to do
    changed = changed + redis.call('HDEL', hash, ARGV[i])
  end
  return changed
end
function steps.fields(members, hash, from, to)
  local wanted = {}
  for i = from, to, 2 do
    wanted[ARGV[i]] = true
  end
  return set(hash, from, to) + without(hash, wanted, 'HKEYS', 'HDEL')
end

local touched = {}
local at, key = 4, 3
while ARGV[at] do
  local host, stop, changed = ARGV[at], at + 1 + tonumber(ARGV[at + 1]), 0
  at = at + 2
  while at <= stop do
    local n = tonumber(ARGV[at + 1])
    changed = changed + steps[ARGV[at]](KEYS[key], KEYS[key + 1], at + 2, at + 1 + n)
    at = at + 2 + n
  end
  if changed > 0 then
    touched[#touched + 1] = host
  end
  key = key + 2
end
if #touched == 0 or ARGV[2] == 'silent' then
  return {serial, #touched}
end
serial = redis.call('INCR', KEYS[1])
for _, host in ipairs(touched) do
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'serial', serial, 'host', host)
end
return {serial, #touched}
`)

// lift is the script of [Writer.raise].
//
//	KEYS  serial
//	ARGV  the serial that must be passed
var lift = redis.NewScript(`
local serial = math.max(tonumber(redis.call('GET', KEYS[1]) or '0') or 0, tonumber(ARGV[1])) + 1
redis.call('SET', KEYS[1], string.format('%.0f', serial))
return serial
`)

// serialOf reads a serial; an absent one is 0.
func serialOf(text string, err error) (uint64, error) {
	if errors.Is(err, redis.Nil) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	serial, err := strconv.ParseUint(text, 10, 64)
	if err != nil || serial > math.MaxInt64 {
		return 0, fmt.Errorf("%w: it is %s", errSerial, quote(text))
	}
	return serial, nil
}

// errSerial is a serial that cannot be counted on.
var errSerial = errors.New("the serial in Redis is no number")
