package krb5test

import (
	"context"
	"os"
)

// ErrEnded is a KDC that ends.
var ErrEnded = errEnded

// Serve starts the KDC again at the port that it had.
func (m *MIT) Serve(ctx context.Context) error {
	if err := os.WriteFile(m.file("kdc.log"), nil, 0o600); err != nil {
		return err
	}
	return m.serve(ctx)
}
