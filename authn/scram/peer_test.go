package scram

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/krb5test"
)

// patience is how long GNU SASL may take on a busy machine.
const patience = time.Minute

// smtp is what GNU SASL's own command speaks to, one login long: it has no
// POP3. The mechanisms are ours, and so is the end of TLS.
type smtp struct {
	net.Conn
	r      *bufio.Reader
	policy *authn.Policy
	tr     *authn.Transport
}

func (s *smtp) say(format string, a ...any) { fmt.Fprintf(s, format+"\r\n", a...) }

func (s *smtp) hear() (string, error) {
	line, err := s.r.ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err
}

// serve answers until the login has ended, and says how.
func (s *smtp) serve(ctx context.Context, config *tls.Config, endPoint []byte) (*authn.Login, error) {
	s.say("220 localhost")
	for {
		line, err := s.hear()
		if err != nil {
			return nil, err
		}
		switch verb, rest, _ := strings.Cut(line, " "); strings.ToUpper(verb) {
		case "EHLO":
			names := ""
			for _, m := range s.policy.Mechanisms(s.tr) {
				names += " " + m.Name()
			}
			s.say("250-localhost\r\n250-STARTTLS\r\n250 AUTH%s", names)
		case "STARTTLS":
			s.say("220 go on")
			c := tls.Server(s.Conn, config)
			if err := c.HandshakeContext(ctx); err != nil {
				return nil, err
			}
			state := c.ConnectionState()
			s.Conn, s.r, s.tr = c, bufio.NewReader(c), &authn.Transport{TLS: &state, EndPoint: endPoint}
		case "AUTH":
			l, err := s.auth(ctx, rest)
			if err != nil {
				s.say("535 no")
			} else {
				s.say("235 yes")
			}
			return l, err
		default:
			return nil, fmt.Errorf("unexpected %q", line)
		}
	}
}

func (s *smtp) auth(ctx context.Context, args string) (*authn.Login, error) {
	mech, initial, has := strings.Cut(args, " ")
	l, err := s.policy.Start(ctx, s.tr, mech)
	if err != nil {
		return nil, err
	}
	var response []byte
	if has {
		if response, err = base64.StdEncoding.DecodeString(initial); err != nil {
			return l, err
		}
	}
	for {
		challenge, done, err := l.Next(ctx, response)
		if err != nil || done {
			return l, err
		}
		s.say("334 %s", base64.StdEncoding.EncodeToString(challenge))
		line, err := s.hear()
		if err != nil {
			return l, err
		}
		if response, err = base64.StdEncoding.DecodeString(line); err != nil {
			return l, err
		}
	}
}

// TestPeerGSASL has GNU SASL log in over TLS of GnuTLS, with and without
// channel bindings.
func TestPeerGSASL(t *testing.T) {
	t.Parallel()
	krb5test.Need(t, "gsasl")
	alice := []string{"-p", "pw-alice", "-a", "alice"}
	for _, tt := range []struct {
		name, mech string
		version    uint16
		args       []string
		want       authn.Kind // Internal when it gets in
		says       string     // to the client
	}{
		{"SHA-256 without TLS", "SCRAM-SHA-256", 0, alice, 0, ""},
		{"SHA-1 without TLS", "SCRAM-SHA-1", 0, alice, 0, ""},
		{"wrong password", "SCRAM-SHA-256", 0, []string{"-p", "pw-wrong", "-a", "alice"}, authn.Rejected, ""},
		{"unknown user", "SCRAM-SHA-256", 0, []string{"-p", "pw-alice", "-a", "nobody"}, authn.UnknownUser, ""},
		{"for himself", "SCRAM-SHA-256", 0, []string{"-p", "pw-alice", "-a", "alice", "-z", "alice"}, 0, ""},
		{"for another", "SCRAM-SHA-256", 0, []string{"-p", "pw-alice", "-a", "alice", "-z", "bob"}, authn.Denied, ""},
		{"SHA-256 with tls-exporter", "SCRAM-SHA-256-PLUS", tls.VersionTLS13, alice, 0, ""},
		{"SHA-1 with tls-exporter", "SCRAM-SHA-1-PLUS", tls.VersionTLS13, alice, 0, ""},
		// GNU SASL 2.2.0 has nothing else for TLS 1.2
		{"tls-unique", "SCRAM-SHA-256-PLUS", tls.VersionTLS12, alice, authn.Denied, "tls-unique is not supported here"},
		{"binds to nothing", "SCRAM-SHA-256", tls.VersionTLS13, []string{"-p", "pw-alice", "-a", "alice", "--no-cb"}, 0, ""},
		{"without bindings on TLS 1.2", "SCRAM-SHA-1", tls.VersionTLS12, []string{"-p", "pw-alice", "-a", "alice", "--no-cb"}, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			l, said, err := gsasl(t, tt.mech, tt.version, tt.args)
			var e *authn.Error
			switch {
			case (err == nil) != (tt.want == 0) || err != nil && authn.KindOf(err) != tt.want:
				t.Errorf("got %v\n%s", err, said)
			case err == nil && l.Identity().User != "alice":
				t.Errorf("got in as %+v", l.Identity())
			case errors.As(err, &e) && (!strings.Contains(e.Text, tt.says) || tt.says == "" && e.Text != ""):
				t.Errorf("is told %q", e.Text)
			}
		})
	}
}

// gsasl runs the program against a server of one login.
func gsasl(t *testing.T, mech string, version uint16, args []string) (*authn.Login, string, error) {
	t.Helper()
	p := &authn.Policy{Name: "test"}
	for _, name := range Names() {
		p.Offers = append(p.Offers, mustNew(t, name, options(secrets(t).Chain())))
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	argv := []string{"--client", "--smtp", "--connect", "localhost:" + port, "--hostname", "localhost", "-m", mech, "--no-starttls"}
	var config *tls.Config
	var endPoint []byte
	if version != 0 {
		cert := newCertificate(t)
		config = &tls.Config{Certificates: []tls.Certificate{cert.Certificate}, MinVersion: version, MaxVersion: version}
		endPoint = cert.endPoint
		ca := filepath.Join(t.TempDir(), "ca.pem")
		if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate.Certificate[0]}), 0o600); err != nil {
			t.Fatal(err)
		}
		argv = append(argv[:len(argv)-1], "--starttls", "--x509-ca-file", ca)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "gsasl", append(argv, args...)...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { // ends with the program, which ends with the connection
		_ = cmd.Wait()
		ln.Close()
		close(ended)
	}()
	l, err := accept(ctx, ln, p, config, endPoint)
	<-ended
	return l, said.String(), err
}

// accept leads the one login of a program that connects to ln.
func accept(ctx context.Context, ln net.Listener, p *authn.Policy, config *tls.Config, endPoint []byte) (*authn.Login, error) {
	c, err := ln.Accept()
	if err != nil {
		return nil, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	s := &smtp{Conn: c, r: bufio.NewReader(c), policy: p, tr: &authn.Transport{}}
	return s.serve(ctx, config, endPoint)
}
