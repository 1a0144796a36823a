package table

// What the fuzz tests look at.
var (
	DecodeHost = decodeHost
	EncodeHost = encodeHost
	ValidHost  = validHost
	Describe   = describe
)
