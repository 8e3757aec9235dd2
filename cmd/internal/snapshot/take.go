package snapshot

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-sasl"
	"golang.org/x/sync/errgroup"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/pop3/client"
)

// TLS says when it begins.
type TLS string

// The values of TLS.
const (
	Implicit TLS = "implicit" // with the first octet
	StartTLS TLS = "starttls" // with STLS, which the server has to know
	None     TLS = "none"     // never: passwords are readable on the way
)

const (
	maxText    = 300              // octets of a failure's text
	hangupWait = 10 * time.Second // for the server to notice that a session is over
)

// Source is a server and how to log in to it.
type Source struct {
	Address string // host:port
	TLS     TLS
	Config  *tls.Config // its authorities and the name that the server must have
	Timeout time.Duration

	// Master logs in for all users, with SASL PLAIN and the user as the identity
	// to act for; with a Separator as user, separator, master. Nil when each user
	// has a password.
	Master    *Login
	Separator string
}

// Probe connects and hangs up, so that a server that cannot be used at all is
// told at once, not once for each user.
func (s *Source) Probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	c, err := s.connect(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", s.Address, err)
	}
	s.hangup(ctx, c)
	return nil
}

// Take lists the maildrops of users, so many in parallel, and hands each to
// done, one after the other. A maildrop that fails is handed on as well, with
// its Failure. Take ends early when ctx does, and when done fails.
func (s *Source) Take(ctx context.Context, users []Login, parallel int, done func(*Maildrop) error) error {
	g, run := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	var mu sync.Mutex // done is called by one at a time
	for _, u := range users {
		if run.Err() != nil {
			break
		}
		g.Go(func() error { // ended by the maildrop's deadline
			m := s.maildrop(run, u)
			if run.Err() != nil && m.Failure != nil {
				return run.Err() // broken off, which says nothing of the maildrop
			}
			mu.Lock()
			defer mu.Unlock()
			return done(m)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// stepError says where a session broke off.
type stepError struct {
	step string
	err  error
}

func (e *stepError) Error() string { return e.step + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

func (s *Source) maildrop(ctx context.Context, u Login) *Maildrop {
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	m := &Maildrop{User: u.User}
	var err error
	m.Messages, err = s.list(ctx, u)
	m.Taken = time.Now().UTC().Truncate(time.Second)
	if err != nil {
		m.Failure = s.failure(err, u)
		m.Messages = nil
	}
	m.count()
	return m
}

// failure is what may be recorded of err: a server can quote what it was sent.
func (s *Source) failure(err error, u Login) *Failure {
	f := &Failure{Step: "session", Text: err.Error()}
	var step *stepError
	if errors.As(err, &step) {
		f.Step, f.Text = step.step, step.err.Error()
	}
	var said *client.ServerError
	if errors.As(err, &said) {
		f.Code, f.Text = said.Code, said.Text
	}
	name, as, password := s.credentials(u)
	plain := base64.StdEncoding.EncodeToString([]byte(as + "\x00" + name + "\x00" + string(password)))
	f.Text = strings.NewReplacer(plain, "***", string(password), "***").Replace(f.Text)
	if len(f.Text) > maxText {
		f.Text = strings.ToValidUTF8(f.Text[:maxText], "") + "..."
	}
	return f
}

// list is one session.
func (s *Source) list(ctx context.Context, u Login) ([]Message, error) {
	c, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer s.hangup(ctx, c)
	if err := s.login(ctx, c, u); err != nil {
		return nil, &stepError{"login", err}
	}
	sizes, err := c.List(ctx)
	if err != nil {
		return nil, &stepError{"LIST", err}
	}
	ids, err := c.UIDL(ctx)
	if err != nil {
		return nil, &stepError{"UIDL", err}
	}
	messages, err := join(sizes, ids)
	if err != nil {
		return nil, &stepError{"UIDL", err}
	}
	return messages, nil
}

// join makes messages of both listings. A message without a unique-id has an
// empty one, which is not legal.
func join(sizes []client.Scan, ids []client.UniqueID) ([]Message, error) {
	messages := make([]Message, len(sizes))
	place := make(map[int]int, len(sizes))
	for i, x := range sizes {
		if x.Size < 0 {
			return nil, fmt.Errorf("message %d has %d octets", x.Number, x.Size)
		}
		messages[i] = Message{Number: x.Number, Size: x.Size}
		place[x.Number] = i
	}
	if len(place) != len(sizes) {
		return nil, errors.New("LIST has a message twice")
	}
	for _, x := range ids {
		i, ok := place[x.Number]
		switch {
		case !ok:
			return nil, fmt.Errorf("message %d is not in LIST", x.Number)
		case messages[i].UID != "":
			return nil, fmt.Errorf("message %d is there twice", x.Number)
		}
		messages[i].UID = x.UID
	}
	slices.SortFunc(messages, func(a, b Message) int { return a.Number - b.Number })
	return messages, nil
}

func (s *Source) connect(ctx context.Context) (*client.Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", s.Address)
	if err != nil {
		return nil, &stepError{"connect", err}
	}
	if s.TLS == Implicit {
		tc := tls.Client(conn, s.Config)
		if err := tc.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, &stepError{"TLS", err}
		}
		conn = tc
	}
	c, err := client.New(ctx, conn, &client.Options{Lenient: true})
	if err != nil {
		return nil, &stepError{"greeting", err}
	}
	if s.TLS == StartTLS {
		if err := c.StartTLS(ctx, s.Config); err != nil {
			c.Close()
			return nil, &stepError{"TLS", err}
		}
	}
	return c, nil
}

// hangup ends the session without QUIT. What was listed is known by then: a
// server that does not notice is no failure.
func (s *Source) hangup(ctx context.Context, c *client.Client) {
	ctx, cancel := context.WithTimeout(ctx, hangupWait)
	defer cancel()
	_ = c.Hangup(ctx)
}

// login takes SASL PLAIN where the server has it, and USER and PASS elsewhere.
func (s *Source) login(ctx context.Context, c *client.Client, u Login) error {
	caps, err := c.Capa(ctx)
	if said := (*client.ServerError)(nil); err != nil && !errors.As(err, &said) {
		return err
	}
	plain := slices.ContainsFunc(caps["SASL"], func(m string) bool { return strings.EqualFold(m, "PLAIN") })
	name, as, password := s.credentials(u)
	switch {
	case plain:
		return c.Auth(ctx, sasl.NewPlainClient(as, name, string(password)))
	case as != "":
		return errors.New("the server does not offer SASL PLAIN, which a master user without a separator needs")
	default:
		return c.UserPass(ctx, name, string(password))
	}
}

// credentials are who logs in for u, and as whom he asks to act.
func (s *Source) credentials(u Login) (name, as string, password authn.Password) {
	switch {
	case s.Master == nil:
		return u.User, "", u.Password
	case s.Separator != "":
		return u.User + s.Separator + s.Master.User, "", s.Master.Password
	default:
		return s.Master.User, u.User, s.Master.Password
	}
}
