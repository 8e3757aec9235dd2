package scram

import (
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/kpopd/kpopd/authn"
)

// exporterLabel and exporterSize are those of RFC 9266 section 2.
const (
	exporterLabel = "EXPORTER-Channel-Binding"
	exporterSize  = 32
)

// channelBinding is what the client has to bind to. kind is the client's
// choice; the reasons are for it to hear.
func (m *mechanism) channelBinding(t *authn.Transport, kind string) ([]byte, error) {
	switch kind {
	case "tls-server-end-point":
		return t.EndPoint, nil
	case "tls-exporter":
		if t.TLS.Version < tls.VersionTLS13 {
			// RFC 9266 section 4.2 has it in TLS 1.2 only where client and server
			// have the extended master secret
			return nil, m.unsupported(kind, "use tls-server-end-point, or TLS 1.3")
		}
		data, err := t.TLS.ExportKeyingMaterial(exporterLabel, nil, exporterSize)
		if err != nil {
			return nil, m.fail(authn.Internal, fmt.Errorf("export from TLS: %w", err))
		}
		return data, nil
	}
	return nil, m.unsupported(kind, "use tls-exporter or tls-server-end-point")
}

func (m *mechanism) unsupported(kind, advice string) error {
	return &authn.Error{
		Kind: authn.Denied, Step: m.name, Err: errors.New("channel binding of type " + kind),
		Text: fmt.Sprintf("Channel binding %.40s is not supported here, %s", kind, advice),
	}
}
