package monitor

import "switchboard/monitor/check"

// verdict is what the answers of one backend's probes amount to. It is pure.
type verdict struct {
	fall, rise int
	// known is true once there has been a verdict, healthy is that verdict.
	known, healthy bool
	// failures and successes count answers in a row.
	failures, successes int
}

// observe takes the next answer and tells whether the verdict has changed; the
// first verdict is a change.
func (v *verdict) observe(answer check.Verdict) (changed bool) {
	before := *v
	switch answer {
	case check.Healthy:
		v.failures = 0
		v.successes++
		if !v.known || v.successes >= v.rise {
			v.known, v.healthy = true, true
		}
	case check.Unhealthy:
		v.failures++
		v.successes = 0
		v.known, v.healthy = true, false
	case check.Void:
	default:
		v.failures++
		v.successes = 0
		if v.failures >= v.fall {
			v.known, v.healthy = true, false
		}
	}
	return v.known != before.known || v.healthy != before.healthy
}

// suspect is true while failures have been seen that do not make a verdict yet.
func (v *verdict) suspect() bool { return v.failures > 0 && !v.down() }

// down is true once the backend has been found unhealthy.
func (v *verdict) down() bool { return v.known && !v.healthy }
