package app

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/external"
	"github.com/kpopd/kpopd/cmd/internal/certs"
	"github.com/kpopd/kpopd/cmd/internal/config"
	"github.com/kpopd/kpopd/cmd/internal/listen"
	"github.com/kpopd/kpopd/kpop"
	"github.com/kpopd/kpopd/maildrop"
	"github.com/kpopd/kpopd/pop3"
)

// door is one way in: what happens to a connection of one listener before and
// while it speaks POP3.
type door struct {
	name     string
	policy   *authn.Policy
	server   *pop3.Server
	kpop     *kpop.Acceptor // nil on a pop3 listener
	certs    *certs.Store   // nil without TLS
	implicit bool           // TLS from the first octet
	log      *slog.Logger
}

// serve runs one connection to its end. Whatever refuses it has told the
// client, the trace and the log. An idle session stands on this frame, so that
// it holds no more than it must.
func (d *door) serve(ctx context.Context, admitted *listen.Conn) {
	c, t := d.enter(ctx, admitted)
	if c != nil {
		// the engine has logged how the session ended, and why
		_ = d.server.ServeConn(context.WithValue(ctx, arrivalKey{}, &arrival{admitted, t.Session, t.Remote}), c, t)
	}
}

// enter does what comes before the greeting: the ticket, or TLS. It returns no
// connection when that did not go well.
func (d *door) enter(ctx context.Context, admitted *listen.Conn) (net.Conn, *authn.Transport) {
	c := admitted.Conn
	t := &authn.Transport{
		Listener: d.name, Session: newSession(),
		Remote: addrPort(c.RemoteAddr()), Local: addrPort(c.LocalAddr()),
	}
	switch {
	case d.kpop != nil:
		next, peer, err := d.kpop.Accept(ctx, c, t)
		if err != nil {
			return nil, nil // traced
		}
		t.Peer = peer
		return next, t
	case d.implicit:
		tc, err := d.startTLS(ctx, c, t)
		if err != nil {
			d.log.Info("TLS refused", "session", t.Session, "listener", t.Listener, "remote", t.Remote.String(), "err", bounded(err.Error(), maxError))
			return nil, nil
		}
		return tc, t
	}
	return c, t
}

// startTLS makes the handshake, and says when a client showed a certificate that
// it cannot log in with: without EXTERNAL on offer, it will not ask.
func (d *door) startTLS(ctx context.Context, c net.Conn, t *authn.Transport) (net.Conn, error) {
	tc, err := d.certs.Server(ctx, c, t)
	if err != nil || t.Client == nil {
		return tc, err
	}
	for _, v := range d.policy.Explain(t) {
		if v.Mechanism.Name() != external.Name || v.Reason == nil {
			continue
		}
		why := t.Client.Err
		if why == nil {
			why = v.Reason
		}
		d.log.LogAttrs(ctx, slog.LevelInfo, "client certificate not taken", append([]slog.Attr{
			slog.String("session", t.Session), slog.String("listener", t.Listener), slog.String("remote", t.Remote.String()),
			slog.String("err", bounded(why.Error(), maxError)),
		}, certificateAttrs(t.Client)...)...)
	}
	return tc, nil
}

// refusal is what a client hears whom the server has no room for; only those
// who expect a greeting in the clear hear anything.
func (d *door) refusal() []byte {
	if d.kpop != nil || d.implicit {
		return nil
	}
	return []byte("-ERR [SYS/TEMP] Too many connections, try again later\r\n")
}

type arrivalKey struct{}

// arrival is what the backend knows of the connection that a login comes from.
type arrival struct {
	conn    *listen.Conn
	session string
	remote  netip.AddrPort
}

// backend is a policy and the store behind it.
type backend struct {
	*authn.Policy
	store    maildrop.Store
	holders  *holders
	takeover string // config.Maildrops.Takeover
	views    config.Views
	log      *slog.Logger
}

var _ pop3.Backend = (*backend)(nil)

// Open opens the maildrop of a user who has logged in, and tells the gate.
func (b *backend) Open(ctx context.Context, id *authn.Identity) (maildrop.Drop, error) {
	me := newHolder(ctx, id)
	drop, err := b.open(ctx, b.ref(id, me.since), me)
	if err != nil {
		return nil, fmt.Errorf("open maildrop of %s: %w", id.User, err)
	}
	if me.conn != nil {
		me.conn.LoggedIn()
	}
	return drop, nil
}

// ref is the maildrop of a user, as he wants to see it.
func (b *backend) ref(id *authn.Identity, now time.Time) maildrop.Ref {
	r := maildrop.Ref{User: id.User, Path: id.Attrs[authn.AttrMaildrop], Folder: id.View.Folder}
	if id.View.Recent {
		r.Since = now.Add(-b.views.Recent)
	}
	if id.View.Recipient != "" {
		r.To = b.views.Addresses(id.User, id.View.Recipient)
	}
	return r
}

// newSession is a name for a session that no other has.
func newSession() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
