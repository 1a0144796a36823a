package h1

// Limits bound a head. The zero value has the defaults.
type Limits struct {
	Head   int // bytes of the whole head, with the empty line that ends it; 0: 32 KiB
	Target int // bytes of the request target; 0: 8 KiB
	Fields int // field lines; 0: 100
}

// maxMethod is the longest method, in bytes. The longest registered one has 17.
const maxMethod = 32

// MaxHead is Head, or its default.
func (l Limits) MaxHead() int { return l.head() }

func (l Limits) head() int   { return or(l.Head, 32<<10) }
func (l Limits) target() int { return or(l.Target, 8<<10) }
func (l Limits) fields() int { return or(l.Fields, 100) }

// requestLine is the longest request line, without its CRLF, that has no target over
// the limit.
func (l Limits) requestLine() int {
	return maxMethod + len(" ") + l.target() + len(" HTTP/1.1")
}

func or(n, standard int) int {
	if n > 0 {
		return n
	}
	return standard
}
