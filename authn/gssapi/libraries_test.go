package gssapi

import (
	"bufio"
	"bytes"
	"crypto/tls"
	_ "embed"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
	"github.com/kpopd/kpopd/kpop/kpoptest"
)

//go:embed testdata/gss-client.c
var source []byte

// peer is a run of the client in C.
type peer struct {
	t     *testing.T
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Reader
	words bytes.Buffer
}

func startPeer(t *testing.T, env []string, program string, args ...string) *peer {
	t.Helper()
	p := &peer{t: t, cmd: exec.CommandContext(t.Context(), program, append(args, "pop@localhost")...)}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = &p.words
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *peer) say(message []byte) {
	p.t.Helper()
	if _, err := fmt.Fprintf(p.in, "%x\n", message); err != nil {
		p.fail(err)
	}
}

func (p *peer) hear() []byte {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.fail(err)
	}
	b, err := hex.DecodeString(strings.TrimSpace(line))
	if err != nil {
		p.fail(err)
	}
	return b
}

func (p *peer) fail(err error) {
	p.t.Helper()
	_ = p.in.Close()
	p.t.Fatalf("%v\n%v: %s", err, p.cmd.Wait(), &p.words)
}

// login leads the peer through the exchange.
func (p *peer) login(ex authn.Exchange) error {
	p.t.Helper()
	for {
		challenge, done, err := ex.Next(p.t.Context(), p.hear())
		if err != nil || done {
			return err
		}
		p.say(challenge)
	}
}

// TestRealLibraries has GSSAPI of MIT and Heimdal log in and talk through the
// layers.
func TestRealLibraries(t *testing.T) {
	t.Parallel()
	const endPoint = "the hash of a certificate, as it were"
	tests := []struct {
		name  string
		args  string
		layer Layers
		mit   bool // Heimdal 7.8 crashes by itself in a context without mutual authentication
	}{
		{"mutual authentication", "-m", None, false},
		{"no mutual authentication", "", None, true},
		{"authzid", "-m -a shared", None, false},
		{"channel binding", "-m -b tls-server-end-point:" + strings.ReplaceAll(endPoint, " ", "_"), None, false},
		{"integrity", "-m -l 2 -s 4096", Integrity, false},
		{"privacy", "-m -l 4 -s 4096", Privacy, false},
		{"privacy in large tokens", "-m -l 4 -s 65536", Privacy, false},
		{"privacy without mutual authentication", "-l 4 -s 4096", Privacy, true},
		{"negotiation", "-n -m -l 4", Privacy, false},
		{"negotiation without mutual authentication", "-n -l 4", Privacy, true},
		{"negotiation with channel binding", "-n -m -l 4 -b tls-server-end-point:" + strings.ReplaceAll(endPoint, " ", "_"), Privacy, false},
		{"signatures", "-n -m -i -l 4", Privacy, false},
		{"signatures without mutual authentication", "-n -i -l 4", Privacy, true},
	}
	for _, enctype := range krb5.DefaultEnctypes() {
		for _, lib := range []kpoptest.Library{kpoptest.MIT, kpoptest.Heimdal} {
			t.Run(string(lib)+" "+krb5.EnctypeName(enctype), func(t *testing.T) {
				t.Parallel()
				r := newRealm(t, enctype)
				program := kpoptest.Compile(t, lib, "gssapi", source)
				for _, tt := range tests {
					if tt.mit && lib != kpoptest.MIT {
						continue
					}
					t.Run(tt.name, func(t *testing.T) {
						m := &Mechanism{Acceptor: r.acceptor, Chain: chain, Layers: None | Integrity | Privacy}
						transport := &authn.Transport{}
						if strings.Contains(tt.args, "-b") {
							transport.TLS, transport.EndPoint = &tls.ConnectionState{}, []byte(strings.ReplaceAll(endPoint, " ", "_"))
							m.Binding = BindingRequired
						}
						var mech authn.Mechanism = m
						if strings.Contains(tt.args, "-n") {
							transport.TLS, mech = &tls.ConnectionState{}, Negotiated(m)
						}
						ex, err := mech.Start(t.Context(), transport)
						if err != nil {
							t.Fatal(err)
						}
						p := startPeer(t, r.env, program, strings.Fields(tt.args)...)
						if err := p.login(ex); err != nil {
							p.fail(err)
						}
						want := "alice"
						if strings.Contains(tt.args, "shared") {
							want = "shared"
						}
						if got := ex.Identity().User; got != want {
							t.Errorf("logged in as %s", got)
						}
						if strings.Contains(tt.args, "-i") {
							p.sign(wrapperOf(ex))
						}
						p.echo(wrapperOf(ex), tt.layer)
						if layered := ex.(authn.Layered).Layer() != nil; layered != (tt.layer != None) {
							t.Errorf("a layer: %v", layered)
						}
						_ = p.in.Close()
						if err := p.cmd.Wait(); err != nil {
							t.Errorf("%v: %s", err, &p.words)
						}
					})
				}
			})
		}
	}
}

// sign has both sides sign what would be a list of mechanisms: those of the
// libraries' clients have Kerberos first, so that nobody asks for it.
func (p *peer) sign(w *wrapper) {
	p.t.Helper()
	mic, err := w.mic([]byte("list"))
	if err != nil {
		p.t.Fatal(err)
	}
	p.say(mic)
	if err := w.checkMIC([]byte("list"), p.hear()); err != nil {
		p.t.Error(err)
	}
}

func wrapperOf(ex authn.Exchange) *wrapper {
	if n, ok := ex.(*negotiation); ok {
		return n.w
	}
	return ex.(*exchange).offer.wrapper
}

// echo sends texts through the layer and wants each of them back.
func (p *peer) echo(w *wrapper, layer Layers) {
	p.t.Helper()
	if layer == None {
		return
	}
	for _, n := range []int{5, 0, 1, 1000, 4000} {
		text := bytes.Repeat([]byte("kpop."), 1000)[:n]
		p.say(mustWrap(p.t, w, text, layer == Privacy))
		got, sealed, err := w.unwrap(p.hear())
		if err != nil || !bytes.Equal(got, text) || sealed != (layer == Privacy) {
			p.t.Errorf("%d octets came back as %d, sealed %v, %v", n, len(got), sealed, err)
		}
	}
}
