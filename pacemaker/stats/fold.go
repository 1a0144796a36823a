package stats

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// mostFolds is how many hours are folded between two passes.
const mostFolds = 50

// fold makes history coarser where it is due at now, at most mostFolds hours of a subject,
// each in a step of its own. more: there are others.
func (l ledger) fold(ctx context.Context, now time.Time) (more bool, err error) {
	due, err := l.overdue(ctx, now)
	if err != nil {
		return false, err
	}
	for _, d := range due {
		who, at, known := parseDue(d.Member.(string))
		if !known {
			if err := l.forget(ctx, d.Member); err != nil {
				return false, err
			}
			continue
		}
		if err := l.foldHour(ctx, who, at, d.Score, now); err != nil {
			return false, err
		}
	}
	return len(due) == mostFolds, nil
}

func (l ledger) overdue(ctx context.Context, now time.Time) ([]redis.Z, error) {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	due, err := l.client.ZRangeByScoreWithScores(ctx, l.keys.due(), &redis.ZRangeBy{
		Min: "-inf", Max: strconv.FormatInt(now.Unix(), 10), Count: mostFolds,
	}).Result()
	if err != nil {
		return nil, fmt.Errorf("looking for history to fold: %w", err)
	}
	return due, nil
}

// forget takes out what nobody can know what to do with.
func (l ledger) forget(ctx context.Context, member any) error {
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	if err := l.client.ZRem(ctx, l.keys.due(), member).Err(); err != nil {
		return fmt.Errorf("folding history: %w", err)
	}
	return nil
}

// foldHour makes one hour coarser: to minutes, where it is, or, when it is older, to one
// value that is added to those of its day.
func (l ledger) foldHour(ctx context.Context, who subject, at int64, seen float64, now time.Time) error {
	minutesEnd := at + hour + seconds(l.keep.ByMinute)
	next, length := strconv.FormatInt(minutesEnd, 10), minute
	if now.Unix() >= minutesEnd {
		next, length = "", hour
	}
	dayAt := floor(at, day)
	names := []string{l.keys.due()}
	for _, metric := range Metrics() {
		names = append(names, l.keys.seconds(who, at, metric), l.keys.hours(who, dayAt, metric))
	}
	ctx, cancel := context.WithTimeout(ctx, l.timeout)
	defer cancel()
	err := foldScript.Run(ctx, l.client, names,
		dueMember(who, at), strconv.FormatFloat(seen, 'f', -1, 64), next, length, at, dayAt+day+seconds(l.keep.ByHour)).Err()
	if err != nil {
		return fmt.Errorf("folding history: %w", err)
	}
	return nil
}

// foldScript folds one hour of a subject: all of its metrics at one moment, so nobody who
// asks sees a value twice or not at all. It does nothing if the hour is not due any more as
// it was seen to be. What is not a hash of numbers is left alone.
//
//	KEYS  due, then for each metric the hash of the hour and that of the day
//	ARGV  the hour in due, its time there as it was seen, its next time or "" for none,
//	      the new length in seconds, the hour, when the day expires
var foldScript = redis.NewScript(`
local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not known or tonumber(known) ~= tonumber(ARGV[2]) then
  return 0
end
if ARGV[3] == '' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  redis.call('ZADD', KEYS[1], ARGV[3], ARGV[1])
end
local length = tonumber(ARGV[4])
for i = 2, #KEYS, 2 do
  local key, into = KEYS[i], KEYS[i]
  if ARGV[3] == '' then into = KEYS[i + 1] end
  local values = redis.pcall('HGETALL', key)
  if not values.err then
    for j = 1, #values, 2 do
      local second = tonumber(values[j])
      local field = second and string.format('%.0f', second - second % length)
      if field and (into ~= key or field ~= values[j]) then
        local answer = redis.pcall('HINCRBY', into, field, values[j + 1])
        if type(answer) ~= 'table' then
          redis.call('HDEL', key, values[j])
        end
      end
    end
    if into ~= key and #values > 0 then
      redis.pcall('EXPIREAT', into, ARGV[6])
    end
  end
end
return 1
`)

// parseDue reads what dueMember wrote.
func parseDue(member string) (who subject, at int64, known bool) {
	what, rest, cut := strings.Cut(member, ":")
	text, id, cutAgain := strings.Cut(rest, ":")
	at, err := strconv.ParseInt(text, 10, 64)
	known = cut && cutAgain && err == nil && (what == "vt" || what == "node" || what == "host")
	return subject{what, id}, at, known
}
