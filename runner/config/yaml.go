package config

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// maxDepth is how deep mappings and lists may be nested. The schema needs 6;
// the parser takes time and memory that grow with the square of the depth.
const maxDepth = 32

// node is a value with its place. The parser's own tree stays in this file.
type node struct {
	at      place
	kind    kind
	text    string   // of a scalar
	members []member // of a mapping
	items   []*node  // of a list
}

type member struct {
	at    place
	key   string
	value *node
	// bare is a member of a flow mapping that is only a word, as in {a: b, c}.
	bare bool
}

type kind int

const (
	mapping kind = iota
	list
	text   // a string
	number // an integer
	empty  // null, in words or by leaving the value out
	truth  // true or false
	other  // a fraction, which no key is
	words  // from the environment or a flag: what it is, the key decides
)

// parse turns YAML into a tree, or reports why it cannot, and returns nil.
func parse(source string, data []byte, problems *problems) *node {
	p := yamlParser{source: source, problems: problems}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if at, problem := p.unreadable(data); problem != "" {
		problems.add(at, "", "%s", problem)
		return nil
	}
	tokens := lexer.Tokenize(string(data))
	if !p.allowed(tokens) {
		return nil
	}
	root, err := p.parse(tokens)
	if err != nil {
		problems.add(p.syntax(err))
		return nil
	}
	return root
}

type yamlParser struct {
	source   string
	problems *problems
}

func (p yamlParser) at(t *token.Token) place {
	return place{source: p.source, line: max(1, t.Position.Line), column: max(1, t.Position.Column)}
}

// unreadable finds bytes that are not text.
func (p yamlParser) unreadable(data []byte) (at place, problem string) {
	at = place{source: p.source, line: 1, column: 1}
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		switch {
		case r == utf8.RuneError && size == 1:
			return at, "the file is not text in UTF-8"
		case r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0x7f:
			return at, fmt.Sprintf("the file holds the control character %U", r)
		case r == '\n':
			at.line, at.column = at.line+1, 1
		default:
			at.column++
		}
		data = data[size:]
	}
	return at, ""
}

// allowed reports what YAML offers and a configuration does without: with no
// anchors there is no alias that can expand, and with no tags no value is
// something else than it looks.
func (p yamlParser) allowed(tokens token.Tokens) bool {
	refused := map[token.Type]string{
		token.AnchorType:     "anchors (&) are not supported: write the value out where it is needed, and quote text that begins with &",
		token.AliasType:      "aliases (*) are not supported: write the value out where it is needed, and quote text that begins with *",
		token.MergeKeyType:   "merge keys (<<) are not supported: write the keys out where they are needed",
		token.TagType:        "tags (!) are not supported: quote text that begins with !",
		token.MappingKeyType: "complex keys (?) are not supported: write key: value",
		token.DirectiveType:  "directives (%) are not supported: quote text that begins with %",
	}
	before, flow, columns := len(p.problems.list), 0, []int(nil)
	for _, t := range tokens {
		if problem := refused[t.Type]; problem != "" {
			p.problems.add(p.at(t), "", "%s", problem)
		}
		switch t.Type {
		case token.MappingStartType, token.SequenceStartType:
			flow++
		case token.MappingEndType, token.SequenceEndType:
			flow--
		case token.SequenceEntryType, token.MappingValueType:
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
			p.problems.add(p.at(t), "", "mappings and lists are nested more than %d deep", maxDepth)
			break
		}
	}
	return len(p.problems.list) == before
}

// parse calls the parser and takes its tree over. A fault of the parser's must
// not end the program.
func (p yamlParser) parse(tokens token.Tokens) (root *node, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			err = errors.New("the YAML parser cannot read this")
		}
	}()
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		return nil, err
	}
	return p.document(file), nil
}

// syntax takes place and message from a parser's error, and leaves out the
// excerpt, which may show a password.
func (p yamlParser) syntax(err error) (at place, key, format string, problem any) {
	at = place{source: p.source, line: 1, column: 1}
	problem = err.Error()
	var syntax *yaml.SyntaxError
	if errors.As(err, &syntax) {
		problem = syntax.Message
		if syntax.Token != nil {
			at = p.at(syntax.Token)
		}
		switch {
		case strings.Contains(syntax.Message, "'\t'"):
			problem = "a tab cannot indent: use spaces"
		case strings.HasPrefix(syntax.Message, "found unknown escape character"):
			problem = `found an unknown escape: write \\ for a backslash, or use single quotes`
		}
	}
	return at, "", "%v", problem
}

// document returns the mapping of the only document, or reports why there is
// none, and returns nil.
func (p yamlParser) document(file *ast.File) *node {
	var root *node
	for _, document := range file.Docs {
		switch {
		case document.Body == nil:
		case root != nil:
			p.problems.add(p.node(document.Body).at, "", "the file holds a second document: a configuration is one")
			return nil
		default:
			root = p.node(document.Body)
		}
	}
	if root == nil || root.kind == empty {
		p.problems.add(place{source: p.source, line: 1, column: 1}, "", "the file is empty: a router needs at least listeners and hosts")
		return nil
	}
	if root.kind != mapping {
		p.problems.add(root.at, "", "the file is not a mapping: write key: value, one key a line")
		return nil
	}
	return root
}

func (p yamlParser) node(n ast.Node) *node {
	result := &node{at: p.at(n.GetToken())}
	switch n := n.(type) {
	case *ast.MappingNode:
		for _, v := range n.Values {
			result.members = append(result.members, p.member(v))
		}
		if !n.IsFlowStyle && len(result.members) > 0 {
			// A block mapping's own token is its first colon.
			result.at = result.members[0].at
		}
	case *ast.MappingValueNode:
		result.members = []member{p.member(n)}
		result.at = result.members[0].at
	case *ast.SequenceNode:
		result.kind = list
		for _, v := range n.Values {
			result.items = append(result.items, p.node(v))
		}
	case *ast.StringNode:
		result.kind, result.text = text, n.Value
	case *ast.LiteralNode:
		result.kind, result.text = text, n.Value.Value
	case *ast.IntegerNode:
		result.kind, result.text = number, n.Token.Value
	case *ast.BoolNode:
		result.kind, result.text = truth, n.Token.Value
	case *ast.NullNode:
		result.kind = empty
	default:
		result.kind = other
	}
	return result
}

func (p yamlParser) member(v *ast.MappingValueNode) member {
	key := v.Key.GetToken()
	return member{at: p.at(key), key: key.Value, value: p.node(v.Value), bare: v.Start == key}
}
