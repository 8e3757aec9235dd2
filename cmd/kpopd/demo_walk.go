package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/emersion/go-sasl"

	"github.com/kpopd/kpopd/authn/gssapi"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/kpop"
	"github.com/kpopd/kpopd/pop3/client"
)

// What the walk shows of the mail, at the first door only.
const (
	shownMessages = 2
	shownLines    = 14 // of a message
)

// visit is a session in the demonstration, as a client has it.
type visit struct {
	w     *world
	out   io.Writer
	conn  net.Conn
	brief bool // show how the client gets in, and not what it fetches
	quiet bool // show nothing for now
	lines int  // of the body that is being shown
}

// walk goes through each door and compares the mail with what was delivered.
func (w *world) walk(ctx context.Context, out io.Writer) error {
	var errs []error
	for i, door := range []struct {
		title string
		login func(*visit, context.Context) (*client.Client, error)
	}{
		{"POP3, STLS, then APOP (bob)", (*visit).apop},
		{"POP3S, PLAIN (alice)", (*visit).plain},
		{"POP3, STLS, then GSSAPI with a ticket (carol)", (*visit).gssapi},
		{"KPOP with a ticket (alice)", (*visit).kpop},
	} {
		fmt.Fprintf(out, "\n== %s\n", door.title)
		v := &visit{w: w, out: out, brief: i > 0}
		if err := v.through(ctx, door.login); err != nil {
			fmt.Fprintf(out, "FAILED: %v\n", err)
			errs = append(errs, fmt.Errorf("%s: %w", door.title, err))
		}
	}
	return errors.Join(errs...)
}

func (v *visit) through(ctx context.Context, login func(*visit, context.Context) (*client.Client, error)) error {
	defer func() {
		if v.conn != nil {
			v.conn.Close()
		}
	}()
	c, err := login(v, ctx)
	if err != nil {
		return err
	}
	return v.collect(ctx, c)
}

func (v *visit) show(k client.Kind, line string) {
	if k == client.Body {
		v.lines++
		switch {
		case v.quiet, v.lines > shownLines:
			return
		case v.lines == shownLines:
			line = "[...]"
		}
		k = client.Received
	} else {
		v.lines = 0
	}
	if v.quiet {
		return
	}
	if len(line) > 100 {
		line = line[:97] + "..."
	}
	fmt.Fprintf(v.out, "%c: %s\n", k, line)
}

func (v *visit) tlsConfig() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(v.w.ca.Certificate())
	return &tls.Config{ServerName: demoHost, RootCAs: pool, NextProtos: []string{"pop3"}}
}

func (v *visit) greeted(ctx context.Context, c net.Conn) (*client.Client, error) {
	return client.New(ctx, c, &client.Options{Log: v.show})
}

func (v *visit) dial(ctx context.Context, address string) (err error) {
	var d net.Dialer
	v.conn, err = d.DialContext(ctx, "tcp", address)
	return err
}

// stls connects in the clear, looks around, and goes on inside TLS.
func (v *visit) stls(ctx context.Context) (*client.Client, error) {
	if err := v.dial(ctx, v.w.Addresses.POP3); err != nil {
		return nil, err
	}
	c, err := v.greeted(ctx, v.conn)
	if err != nil {
		return nil, err
	}
	if _, err := c.Capa(ctx); err != nil {
		return nil, err
	}
	if err := c.StartTLS(ctx, v.tlsConfig()); err != nil {
		return nil, err
	}
	return c, nil
}

func (v *visit) apop(ctx context.Context) (*client.Client, error) {
	c, err := v.stls(ctx)
	if err != nil {
		return nil, err
	}
	u := v.w.user("bob")
	return c, c.Apop(ctx, u.Name, u.Secret)
}

func (v *visit) plain(ctx context.Context) (*client.Client, error) {
	if err := v.dial(ctx, v.w.Addresses.POP3S); err != nil {
		return nil, err
	}
	v.show(client.Note, "TLS from the first octet")
	c, err := v.greeted(ctx, tls.Client(v.conn, v.tlsConfig()))
	if err != nil {
		return nil, err
	}
	u := v.w.user("alice")
	return c, c.Auth(ctx, sasl.NewPlainClient("", u.Name, u.Password))
}

func (v *visit) gssapi(ctx context.Context) (*client.Client, error) {
	kc, err := v.w.kerberos("carol")
	if err != nil {
		return nil, err
	}
	c, err := v.stls(ctx)
	if err != nil {
		return nil, err
	}
	m, err := gssapi.NewClient(ctx, kc, demoService, gssapi.Options{Mutual: true})
	if err != nil {
		return nil, err
	}
	return c, c.Auth(ctx, m)
}

func (v *visit) kpop(ctx context.Context) (*client.Client, error) {
	kc, err := v.w.kerberos("alice")
	if err != nil {
		return nil, err
	}
	in, err := kc.Initiate(ctx, demoService, krb5.InitOptions{Mutual: true})
	if err != nil {
		return nil, err
	}
	if err := v.dial(ctx, v.w.Addresses.KPOP); err != nil {
		return nil, err
	}
	v.show(client.Sent, "00 00 00 13 KRB5_SENDAUTH_V1.0 00")
	v.show(client.Sent, "00 00 00 09 KPOPV1.0 00")
	v.show(client.Received, "00")
	v.show(client.Sent, fmt.Sprintf("00 00 %02x %02x AP-REQ with a ticket for %s", len(in.APReq)>>8, len(in.APReq)&0xff, demoService))
	if err := (&kpop.Client{}).Handshake(ctx, v.conn, in); err != nil {
		return nil, err
	}
	v.show(client.Received, "00 00 00 00 AP-REP: the server has the service's key")
	c, err := v.greeted(ctx, v.conn)
	if err != nil {
		return nil, err
	}
	return c, c.UserPass(ctx, "alice", "nobody reads this")
}

func (w *world) user(name string) user {
	for _, u := range w.Users {
		if u.Name == name {
			return u
		}
	}
	return user{}
}

// collect fetches everything, as a client does that keeps mail on the server,
// and compares it octet for octet.
func (v *visit) collect(ctx context.Context, c *client.Client) error {
	n, _, err := c.Stat(ctx)
	if err != nil {
		return err
	}
	if want := len(demoMail()); n != want {
		return fmt.Errorf("%d messages, want %d", n, want)
	}
	v.quiet = v.brief
	sizes, err := c.List(ctx)
	if err != nil {
		return err
	}
	uids, err := c.UIDL(ctx)
	if err != nil {
		return err
	}
	total := 0
	for i, id := range uids {
		want := onWire(v.w.stored[id.UID])
		got, err := v.fetch(ctx, c, id.Number)
		switch {
		case err != nil:
			return err
		case !bytes.Equal(got, want):
			return fmt.Errorf("message %d is not what was delivered: %d octets, want %d", id.Number, len(got), len(want))
		case sizes[i].Size != int64(len(want)):
			return fmt.Errorf("message %d: LIST says %d octets, RETR sent %d", id.Number, sizes[i].Size, len(want))
		}
		total += len(got)
		v.quiet = v.brief || i+1 >= shownMessages
	}
	v.quiet = false
	v.show(client.Note, fmt.Sprintf("%d messages, %d octets, each as it was delivered", len(uids), total))
	return c.Quit(ctx)
}

func (v *visit) fetch(ctx context.Context, c *client.Client, number int) ([]byte, error) {
	r, err := c.Retr(ctx, number)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
