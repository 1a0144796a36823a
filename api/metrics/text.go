package metrics

import (
	"context"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	dto "github.com/prometheus/client_model/go"

	"switchboard/api"
)

// family is one metric, at its place among all.
type family struct {
	place int
	name  string
	// head is its HELP and TYPE.
	head string
}

func newFamily(place int, kind dto.MetricType, name, help string) family {
	return family{place, name, "# HELP " + name + " " + helpEscapes.Replace(help) + "\n# TYPE " + name + " " + strings.ToLower(kind.String()) + "\n"}
}

// What the format has escaped.
var (
	helpEscapes  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	valueEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// page is a scrape while it is written: a text for each family, by its place, since all
// samples of a family stand together, and hosts are looked at once. It is used again.
type page struct {
	families []family
	texts    [][]byte
	// others are the metrics of the runtime and the process.
	others []byte
	// host is the label of the host that is looked at, and backend that of its backend with
	// the host's behind it.
	host, backend []byte
}

// add adds a sample. The labels are in the order of their names.
func (p *page) add(f family, value float64, labels []byte) {
	p.texts[f.place] = appendSample(p.texts[f.place], f.name, "", labels, value)
}

// each adds a sample for every entry, with its name as the label.
func (p *page) each(f family, name string, values map[string]int64) {
	for _, value := range slices.Sorted(maps.Keys(values)) {
		p.add(f, float64(values[value]), appendLabel(nil, name, value))
	}
}

// size is how many bytes write writes.
func (p *page) size() int {
	n := len(p.others)
	for i, text := range p.texts {
		if len(text) > 0 {
			n += len(p.families[i].head) + len(text)
		}
	}
	return n
}

// write writes the page in turns, in pieces.
func (p *page) write(ctx context.Context, turn *api.Turn, w io.Writer) error {
	if err := turn.Write(ctx, w, p.others); err != nil {
		return err
	}
	for i, text := range p.texts {
		if len(text) == 0 {
			continue
		}
		if _, err := io.WriteString(w, p.families[i].head); err != nil {
			return err
		}
		if err := turn.Write(ctx, w, text); err != nil {
			return err
		}
	}
	return nil
}

// clear makes the page empty, and gives back what was much larger than it had to be.
func (p *page) clear() {
	for i, text := range p.texts {
		if api.Roomy(text) {
			text = nil
		}
		p.texts[i] = text[:0]
	}
	p.others = p.others[:0]
}

// appendSample appends a line.
func appendSample(to []byte, name, suffix string, labels []byte, value float64) []byte {
	to = append(append(to, name...), suffix...)
	if len(labels) > 0 {
		to = append(append(append(to, '{'), labels...), '}')
	}
	return append(appendValue(append(to, ' '), value), '\n')
}

// appendValue appends a number as the Prometheus library has it.
func appendValue(to []byte, value float64) []byte {
	if n := int64(value); float64(n) == value && 0 <= n && n < 1e6 {
		return strconv.AppendInt(to, n, 10)
	}
	return strconv.AppendFloat(to, value, 'g', -1, 64)
}

// appendLabel appends a label, behind a comma if it is not the first. Its value may be
// anything; the format has UTF-8 only.
func appendLabel(to []byte, name, value string) []byte {
	if len(to) > 0 {
		to = append(to, ',')
	}
	to = append(append(to, name...), `="`...)
	if plain(value) {
		to = append(to, value...)
	} else {
		to = append(to, valueEscapes.Replace(strings.ToValidUTF8(value, "\uFFFD"))...)
	}
	return append(to, '"')
}

// plain tells a value that is written as it is.
func plain(value string) bool {
	for i := range len(value) {
		if c := value[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
