package compat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Parse reads a configuration, JSON or YAML, and validates it. Keys that are not
// known are ignored, as the original does. A value of the wrong type is one more
// [Problem]; text that is neither JSON nor YAML is an error of its own, which
// names a place and repeats nothing of the text.
func Parse(data []byte) (Config, error) {
	tree, err := parse(data)
	if err != nil {
		return Config{}, err
	}
	var d decoder
	root, ok := tree.(map[string]any)
	if !ok && tree != nil {
		return Config{}, errors.New("parsing the configuration: it is not an object with keys")
	}
	c := d.config(root)
	found := d.wrong
	var invalid Invalid
	if errors.As(c.Validate(), &invalid) {
		for _, p := range invalid {
			// What could not be read is missing too, which is not worth saying.
			if !d.named(p.Field) {
				found = append(found, p)
			}
		}
	}
	if len(found) > 0 {
		return Config{}, Invalid(found)
	}
	return c, nil
}

// MaxSize is the longest configuration, in bytes.
const MaxSize = 1 << 20

// parse returns maps, lists, strings, bools, nil, and json.Number with the digits
// as they were written.
func parse(data []byte) (any, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("parsing the configuration: longer than %d bytes", MaxSize)
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if json.Valid(data) {
		decoder := json.NewDecoder(bytes.NewReader(data))
		decoder.UseNumber()
		var tree any
		err := decoder.Decode(&tree)
		return tree, err
	}
	return parseYAML(data)
}

// parseYAML takes the first document. A fault of the parser's must not end the
// program.
func parseYAML(data []byte) (tree any, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = errNeither
		}
	}()
	tokens := lexer.Tokenize(string(data))
	if deep(tokens) {
		return nil, errDeep
	}
	file, err := parser.Parse(tokens, 0)
	if err != nil {
		return nil, syntaxError(err)
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil {
		return nil, nil
	}
	y := yamlReader{anchors: make(map[string]any)}
	return y.value(file.Docs[0].Body, 0)
}

var (
	errNeither = errors.New("parsing the configuration: neither valid JSON nor valid YAML")
	errDeep    = fmt.Errorf("parsing the configuration: more than %d levels", maxDepth)
)

// deep tells if the text is nested so deep that the parser, which takes time that
// grows with the square of that, should not see it.
func deep(tokens token.Tokens) bool {
	flow, columns := 0, []int(nil)
	for _, t := range tokens {
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.SequenceEntryType, token.MappingValueType, token.MappingKeyType:
			// In block style, what begins further to the right is further down.
			column := t.Position.Column
			if t.Type == token.MappingValueType && t.Prev != nil {
				column = t.Prev.Position.Column
			}
			for len(columns) > 0 && columns[len(columns)-1] >= column {
				columns = columns[:len(columns)-1]
			}
			columns = append(columns, column)
		}
		if flow > maxDepth || len(columns) > maxDepth {
			return true
		}
	}
	return false
}

// syntaxError leaves out the lines that the library quotes: they may hold a
// password.
func syntaxError(err error) error {
	var at yaml.Error
	if errors.As(err, &at) && at.GetToken() != nil && at.GetToken().Position != nil {
		place := at.GetToken().Position
		return fmt.Errorf("parsing the configuration: line %d, column %d: not valid YAML", place.Line, place.Column)
	}
	return errNeither
}

// maxDepth bounds nesting; the configuration needs 5 levels.
const maxDepth = 32

type yamlReader struct{ anchors map[string]any }

func (y yamlReader) value(node ast.Node, depth int) (any, error) {
	if depth > maxDepth {
		return nil, errDeep
	}
	switch n := node.(type) {
	case *ast.AnchorNode:
		value, err := y.value(n.Value, depth+1)
		y.anchors[n.Name.GetToken().Value] = value
		return value, err
	case *ast.AliasNode:
		value, known := y.anchors[n.Value.GetToken().Value]
		if !known {
			return nil, errors.New("parsing the configuration: an alias without an anchor")
		}
		return value, nil
	case *ast.TagNode:
		return y.value(n.Value, depth+1)
	case ast.MapNode:
		members := make(map[string]any)
		for it := n.MapRange(); it.Next(); {
			value, err := y.value(it.Value(), depth+1)
			if err != nil {
				return nil, err
			}
			merged, isMap := value.(map[string]any)
			if it.Key().Type() != ast.MergeKeyType || !isMap {
				members[it.Key().GetToken().Value] = value
				continue
			}
			for key, value := range merged {
				if _, own := members[key]; !own {
					members[key] = value
				}
			}
		}
		return members, nil
	case *ast.SequenceNode:
		var items []any
		for _, item := range n.Values {
			value, err := y.value(item, depth+1)
			if err != nil {
				return nil, err
			}
			items = append(items, value)
		}
		return items, nil
	case *ast.StringNode:
		return n.Value, nil
	case *ast.LiteralNode:
		return n.Value.Value, nil
	case *ast.BoolNode:
		return n.Value, nil
	case *ast.NullNode, nil:
		return nil, nil
	default:
		return json.Number(node.GetToken().Value), nil
	}
}

// decoder takes values out of the tree and notes those of the wrong type.
type decoder struct{ wrong []Problem }

func (d *decoder) complain(field, detail string) {
	d.wrong = append(d.wrong, Problem{field, detail})
}

// named tells if field, or what it is in, has been complained about.
func (d *decoder) named(field string) bool {
	for _, p := range d.wrong {
		if field == p.Field || strings.HasPrefix(field, p.Field+".") || strings.HasPrefix(field, p.Field+"[") {
			return true
		}
	}
	return false
}

// section is one mapping of the tree with the path of its members.
type section struct {
	*decoder
	path    string
	members map[string]any
}

func (d *decoder) config(root map[string]any) Config {
	top := section{d, "", root}
	proxy, api := top.in("Proxy"), top.in("API")
	server, agent := api.in("TLS"), top.in("GaleraAgentTLS")
	metrics, status := top.in("Metrics"), top.in("StatusLog")
	c := Config{
		BindAddress: top.text("BindAddress"),
		Proxy: Proxy{
			Port:                     proxy.number("Port"),
			InactiveMysqlPort:        proxy.number("InactiveMysqlPort"),
			HealthcheckTimeoutMillis: proxy.number("HealthcheckTimeoutMillis"),
			ShutdownDelaySeconds:     proxy.number("ShutdownDelaySeconds"),
		},
		API: API{
			Port:           api.number("Port"),
			AggregatorPort: api.number("AggregatorPort"),
			Username:       api.text("Username"),
			Password:       api.text("Password"),
			ForceHttps:     api.flag("ForceHttps"),
			TLS: ServerTLS{
				Enabled: server.flag("Enabled"), Certificate: server.text("Certificate"), PrivateKey: server.text("PrivateKey"),
			},
		},
		HealthPort:     top.number("HealthPort"),
		StaticDir:      top.text("StaticDir"),
		GaleraAgentTLS: GaleraAgentTLS{Enabled: agent.flag("Enabled"), CA: agent.text("CA"), ServerName: agent.text("ServerName")},
		Metrics:        Metrics{Enabled: metrics.flag("Enabled"), Port: DefaultMetricsPort},
		StatusLog:      StatusLog{Enabled: status.flag("Enabled"), Interval: status.duration("Interval")},
	}
	if _, given := metrics.members["Port"]; given {
		c.Metrics.Port = metrics.number("Port")
	}
	for i, item := range proxy.list("Backends") {
		b := proxy.item("Backends", i, item)
		c.Proxy.Backends = append(c.Proxy.Backends, Backend{
			Host: b.text("Host"), Port: b.number("Port"), StatusPort: b.number("StatusPort"),
			StatusEndpoint: b.text("StatusEndpoint"), Name: b.text("Name"),
		})
	}
	for i, uri := range api.list("ProxyURIs") {
		s := section{d, api.path, map[string]any{fmt.Sprintf("ProxyURIs[%d]", i): uri}}
		c.API.ProxyURIs = append(c.API.ProxyURIs, s.text(fmt.Sprintf("ProxyURIs[%d]", i)))
	}
	if c.StatusLog.Interval <= 0 {
		c.StatusLog.Interval = DefaultStatusInterval
	}
	return c
}

func (s section) in(key string) section {
	members, ok := s.members[key].(map[string]any)
	if !ok && s.members[key] != nil {
		s.complain(s.path+key, "must be an object with keys")
	}
	return section{s.decoder, s.path + key + ".", members}
}

func (s section) item(key string, i int, item any) section {
	return section{s.decoder, s.path, map[string]any{fmt.Sprintf("%s[%d]", key, i): item}}.in(fmt.Sprintf("%s[%d]", key, i))
}

func (s section) list(key string) []any {
	items, ok := s.members[key].([]any)
	if !ok && s.members[key] != nil {
		s.complain(s.path+key, "must be a list")
	}
	return items
}

// text takes numbers too: an unquoted password of digits is meant as one.
func (s section) text(key string) string {
	switch value := s.members[key].(type) {
	case nil:
		return ""
	case string:
		return value
	case json.Number:
		return value.String()
	case bool:
		return strconv.FormatBool(value)
	default:
		s.complain(s.path+key, "must be text")
		return ""
	}
}

// number takes quoted ones too: pxc-release renders StatusPort so.
func (s section) number(key string) uint {
	digits := ""
	switch value := s.members[key].(type) {
	case nil:
		return 0
	case string:
		digits = value
	case json.Number:
		digits = value.String()
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		s.complain(s.path+key, "must be a whole number, 0 or more")
	}
	return uint(n)
}

// flag takes the words of older YAML too.
func (s section) flag(key string) bool {
	switch value := s.members[key].(type) {
	case nil:
		return false
	case bool:
		return value
	case string:
		switch strings.ToLower(value) {
		case "true", "yes", "on":
			return true
		case "false", "no", "off":
			return false
		}
	}
	s.complain(s.path+key, "must be true or false")
	return false
}

// duration takes text with a unit, and numbers: as seconds, or as nanoseconds if
// there are a billion or more of them, as Go writes a duration in JSON.
func (s section) duration(key string) time.Duration {
	text := s.text(key)
	if text == "" {
		return 0
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		if n < int64(time.Second) && n > math.MinInt32 {
			return time.Duration(n) * time.Second
		}
		return time.Duration(n)
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		s.complain(s.path+key, "must be a duration such as 60s")
	}
	return d
}
