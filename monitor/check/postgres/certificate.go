package postgres

import (
	"crypto/x509"
	"errors"
	"time"

	"switchboard/monitor/check"
)

// certificateWords says what is wrong with the server's certificate and what to
// do about it; "" if err is about something else.
func certificateWords(err error, tls check.TLS) string {
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok {
		if invalid.Reason != x509.Expired {
			return "its certificate is not valid: " + check.Line(invalid.Error())
		}
		return "its certificate is valid from " + invalid.Cert.NotBefore.UTC().Format(time.RFC3339) + " to " +
			invalid.Cert.NotAfter.UTC().Format(time.RFC3339) + ": renew it, or set the clock"
	}
	if misnamed, ok := errors.AsType[x509.HostnameError](err); ok {
		return "its certificate is for another name: set the check's tls.server_name: " + check.Line(misnamed.Error())
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		if tls.CA == "" {
			return "its certificate is not from an authority that this system knows: set the check's tls.ca"
		}
		return "its certificate is not from the authority in the check's tls.ca"
	}
	return ""
}
