package oidc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/kpopd/kpopd/authn/sitefile"
)

const (
	maxHeader = 64 << 10    // octets of the header of an answer
	maxPEM    = 1 << 20     // octets of the file of certificates
	idleFor   = time.Minute // of a connection to the issuer
)

// web asks the URLs of an issuer.
type web struct{ http.Client }

// newWeb trusts the certificates in the file ca, the system's when it is "".
// timeout is for an answer from the dial to its last octet.
func newWeb(ca string, timeout time.Duration) (*web, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		b, err := sitefile.Read(ca, maxPEM, sitefile.WorldWritable)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("%s: no PEM certificate in it", ca)
		}
	}
	return &web{http.Client{
		Timeout: timeout,
		Transport: &http.Transport{ // no Proxy
			TLSClientConfig: c, DialContext: (&net.Dialer{}).DialContext, ForceAttemptHTTP2: true,
			MaxIdleConnsPerHost: maxQuestions, IdleConnTimeout: idleFor, MaxResponseHeaderBytes: maxHeader,
		},
		// the answer that says where to go is no answer
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// get is the answer to GET, of limit octets at most.
func (w *web) get(ctx context.Context, url string, limit int64) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	return w.do(r, limit)
}

func (w *web) do(r *http.Request, limit int64) ([]byte, error) {
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "kpopd")
	answer, err := w.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", answer.StatusCode)
	}
	return readAll(answer.Body, limit)
}

func readAll(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	switch {
	case err != nil:
		return nil, err
	case int64(len(b)) > limit:
		return nil, fmt.Errorf("more than %d octets", limit)
	}
	return b, nil
}
