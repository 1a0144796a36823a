package stats

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

// ledger is the statistics in Redis, as a reader writes them. Each call has a deadline of
// its own.
type ledger struct {
	client  redis.UniversalClient
	keys    keys
	timeout time.Duration
	keep    Keep
}

// load returns the position of a node as it is written, "" if there is none.
func (l ledger) load(ctx context.Context, node string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	text, err := l.client.Get(ctx, l.keys.position(node)).Result()
	if err != nil && !errors.Is(err, redis.Nil) {
		return "", fmt.Errorf("reading the position: %w", err)
	}
	return text, nil
}

// errMoved is that the position in Redis was not the one that was expected, so nothing was
// added: somebody else has counted, or we have and never heard the answer.
var errMoved = errors.New("the position is another one")

// commit adds sums and moves the position from one text to another, in one step. refused
// counts values that could not be added, since a field holds no number or a key is none of
// ours. After any error but errMoved nobody knows whether it was done: the position tells.
func (l ledger) commit(ctx context.Context, node, from, to string, s *sums) (refused int64, err error) {
	names := []string{l.keys.position(node), l.keys.due()}
	arguments := make([]any, 0, 2*s.fields+3*(len(s.totals)+len(s.history))+3)
	arguments = append(arguments, from, to)

	// An hour is folded when all of it is old enough; one that was folded is due at once.
	due := make(map[string]int64)
	for in := range s.history {
		due[dueMember(in.subject, in.at)] = in.at + hour + seconds(l.keep.BySecond)
	}
	arguments = append(arguments, len(due))
	for member, when := range due {
		arguments = append(arguments, member, when)
	}
	for who, values := range s.totals {
		names = append(names, l.keys.totals(who))
		arguments = append(arguments, 0, len(values))
		for field, n := range values {
			arguments = append(arguments, field, n)
		}
	}
	for in, values := range s.history {
		names = append(names, l.keys.seconds(in.subject, in.at, in.metric))
		arguments = append(arguments, in.at+hour+seconds(l.keep.ByHour), len(values))
		for second, n := range values {
			arguments = append(arguments, second, n)
		}
	}

	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	answer, err := add.Run(ctx, l.client, names, arguments...).Int64Slice()
	switch {
	case err != nil:
		return 0, fmt.Errorf("adding to the statistics: %w", err)
	case len(answer) != 2:
		return 0, errors.New("adding to the statistics: reading an answer of Redis that the script does not give")
	case answer[0] == 0:
		return 0, errMoved
	}
	return answer[1], nil
}

// add is the script that counts. Redis does not undo what a script has done before an
// error. So a value that cannot be added to what is there is left out, which will not be
// better the next time; and after anything else, such as a right that is missing, what was
// done is taken back.
//
//	KEYS  position, due, then a hash each
//	ARGV  expected position or "", the next one,
//	      how many hours are due, and each with its time,
//	      then for each hash when it expires or 0, how many values it gets, and those:
//	      field, number
var add = redis.NewScript(`
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then
  return {0, 0}
end
local done, refused = {}, 0
local function undo(why)
  for i = #done, 1, -1 do
    redis.call('HINCRBY', done[i][1], done[i][2], '-' .. done[i][3])
  end
  return why
end
local at = 4 + 2 * tonumber(ARGV[3])
for i = 3, #KEYS do
  local key, expires, n = KEYS[i], ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  for _ = 1, n do
    local field, value = ARGV[at], ARGV[at + 1]
    at = at + 2
    local answer = redis.pcall('HINCRBY', key, field, value)
    if type(answer) ~= 'table' then
      done[#done + 1] = {key, field, value}
    elseif string.find(answer.err, 'WRONGTYPE') or string.find(answer.err, 'not an integer') or string.find(answer.err, 'overflow') then
      refused = refused + 1
    else
      return undo(answer)
    end
  end
  if expires ~= '0' then
    local answer = redis.pcall('EXPIREAT', key, expires)
    if type(answer) == 'table' then return undo(answer) end
  end
end
for i = 4, 3 + 2 * tonumber(ARGV[3]), 2 do
  local known = redis.pcall('ZSCORE', KEYS[2], ARGV[i])
  if type(known) == 'table' and known.err then return undo(known) end
  if not known or tonumber(known) > tonumber(ARGV[i + 1]) then
    local answer = redis.pcall('ZADD', KEYS[2], ARGV[i + 1], ARGV[i])
    if type(answer) == 'table' then return undo(answer) end
  end
end
local answer = redis.pcall('SET', KEYS[1], ARGV[2])
if answer.err then return undo(answer) end
return {1, refused}
`)

// dueMember names an hour of a subject in the set of what is due. The ID comes last, as it
// may be anything.
func dueMember(who subject, at int64) string {
	return who.what + ":" + strconv.FormatInt(at, 10) + ":" + who.id
}
