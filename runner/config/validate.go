package config

import (
	"os"
	"reflect"
	"slices"
	"strings"

	"switchboard/bridge/route"
	"switchboard/monitor/check"
	"switchboard/runner"
)

// validator checks what only a file has, and finds the places of what the runner
// says is wrong. A key that is bad in itself is left out, so that one mistake is
// reported once.
type validator struct {
	*decoder
	file *File
}

func (v *validator) validate(checks map[string]check.Builder) {
	for i, h := range v.file.Hosts {
		path := element("hosts", i) + ".check"
		if h.Check != nil && !v.unread(path+".type") {
			v.check(h.Check, path)
		}
	}
	v.redis()
	v.stats()
	v.passwordFile("api", v.file.API.PasswordFile, &v.file.API.Password)
	for i, l := range v.file.Listeners {
		if l.TLS != nil {
			v.certificates(element("listeners", i)+".tls.certificates", l.TLS.Certificates)
		}
	}
	c := v.file.Runner()
	c.Checks = checks
	if v.file.Redis.URL != "" {
		c.Table = &runner.Table{Tables: make(chan *route.Table)}
	}
	if joined, wrong := c.Validate().(interface{ Unwrap() []error }); wrong {
		for _, err := range joined.Unwrap() {
			v.invalid(err.(*runner.Invalid))
		}
	}
	for _, path := range v.unquoted {
		v.wrong(path, mustQuote)
	}
	v.unreachable()
	if v.file.Name == "" {
		v.file.Name, _ = os.Hostname()
	}
}

// redis checks the table's keys, and that there are hosts without it.
func (v *validator) redis() {
	if !v.reached("redis", &v.file.Redis) {
		if _, set := v.at["hosts"]; v.file.Redis.URL == "" && len(v.file.Hosts) == 0 && (set || !v.unread("hosts")) {
			v.wrong("hosts", "no hosts: at least one is needed, or redis.url, where they come from")
		}
	}
}

// stats checks the keys of the statistics, and that there is a file to count.
func (v *validator) stats() {
	s := &v.file.Stats
	if !v.reached("stats.redis", &s.Redis) {
		if _, set := v.at["stats.log"]; set && s.Redis.URL == "" {
			v.wrong("stats.log", "there is no stats.redis.url: set it, or remove this key")
		}
		return
	}
	if s.Log == "" && !v.unread("log.access") {
		s.Log = v.file.Log.Access
	}
	switch s.Log {
	case "":
		if !v.unread("log.access") && !v.unread("stats.log") {
			v.wrong("stats", "there is no file to count: set log.access, or stats.log")
		}
	case "-":
		v.wrong("stats", "what goes to stdout cannot be counted: let log.access, or stats.log, be a file")
	}
}

// reached checks the keys of a Redis, and tells whether there is one.
func (v *validator) reached(path string, r *Redis) bool {
	if r.URL == "" {
		for _, key := range []string{path + ".prefix", path + ".password_file"} {
			if _, set := v.at[key]; set {
				v.wrong(key, "there is no %s.url: set it, or remove this key", path)
			}
		}
		return false
	}
	v.passwordFile(path, r.PasswordFile, &r.Password)
	if v.unread(path) {
		return true
	}
	if err := r.Store().Validate(); err != nil {
		v.wrong(path+".url", "%v", err)
	} else if err := r.Store().CheckPrefix(r.Prefix); err != nil {
		v.wrong(path+".prefix", "%v", err)
	}
	return true
}

// invalid reports what the runner says, unless it was not told what was written.
func (v *validator) invalid(i *runner.Invalid) {
	if !slices.ContainsFunc(append(i.Besides, i.Key), v.unread) {
		v.wrong(i.Key, "%s", i.Problem)
	}
}

// unread tells whether the key at path, what it is in, or something in it is bad.
func (v *validator) unread(path string) bool {
	if v.partly[path] {
		return true
	}
	for path != "" && !v.bad[path] {
		path = parent(path)
	}
	return path != ""
}

// wrong reports the key at path, at its place, or, if it is not set, at that of
// what it is in.
func (v *validator) wrong(path, format string, args ...any) {
	if !v.bad[path] {
		v.report(v.place(path), path, format, args...)
	}
}

func (v *validator) place(path string) place {
	for {
		if at, set := v.at[path]; set || path == "" {
			return at
		}
		path = parent(path)
	}
}

func (v *validator) warn(path, what string) {
	v.file.Warnings = append(v.file.Warnings, (&Error{Where: v.place(path).String(), Key: path, Problem: what}).Error())
}

func (v *validator) unreachable() {
	named := make(map[string]bool)
	for _, l := range v.file.Listeners {
		if l.Protocol != "tcp" {
			return // whatever the name, a client can ask for it
		}
		named[l.Host] = true
	}
	for i, h := range v.file.Hosts {
		if h.Name != "" && !named[h.Name] {
			v.warn(element("hosts", i), "no listener names this host, so no client can reach it")
		}
	}
}

// known tells whether a check type is of this project. Which keys another's
// needs, only the program knows.
func known(checkType string) bool {
	return slices.Contains([]string{"http", "tcp", "exec", "mysql", "galera", "postgres", "redis"}, checkType)
}

func (v *validator) check(c *Check, path string) {
	for _, f := range fieldsOf(reflect.TypeFor[Check]()) {
		types, key := strings.Fields(f.tag.Get("for")), join(path, f.key)
		_, set := v.at[key]
		if known(c.Type) && set && len(types) > 0 && !slices.Contains(types, c.Type) && says(reflect.ValueOf(*c).Field(f.index)) {
			v.add(v.place(key), key, "this key is not for a check of type %s but for %s: remove it", c.Type, strings.Join(types, ", "))
		}
	}
	if _, set := v.at[path+".path"]; !set && c.Type != "http" {
		c.Path = ""
	}
	v.passwordFile(path, c.PasswordFile, &c.Password)
}

// says tells whether a value says anything: an empty text or list does not.
func says(v reflect.Value) bool {
	return !v.IsZero() && (v.Kind() != reflect.Slice || v.Len() > 0)
}

// passwordFile reads the password of the mapping at path, if a file has it.
func (v *validator) passwordFile(path, name string, password *Secret) {
	from, to := path+".password_file", path+".password"
	switch {
	case name == "" || v.bad[from]:
	case *password != "":
		v.wrong(from, "%s is set too: remove one of them", to)
	default:
		*password = v.password(from, name)
		v.at[to] = v.at[from]
	}
	v.bad[to] = v.bad[to] || v.bad[from]
}
