package pop3_test

import (
	"bufio"
	"crypto/hmac"
	"crypto/md5"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "write the words of the server's replies into the S: lines of the transcripts")

// play plays the transcripts testdata/pattern, each as a subtest in a world of
// its own. They are txtar files: the text before the first file is the
// dialogue, and a file user/name is a message in that user's maildrop.
//
//	#  a comment; the first one tells the story
//	O: an option of the world: see world.option
//	C: the client sends a line
//	C= it sends these octets, in Go's quotes, and no line end but those in them
//	C+ it sends several lines in one write: a | b | c
//	A: it sends APOP for "user secret"
//	M: it answers a CRAM-MD5 challenge for "user secret"
//	S: the server sends exactly this line
//	S= it sends these octets, in Go's quotes, line end included
//	S~ it sends a line that matches this regular expression
//	T: the client starts TLS
//	D: the file of this name is delivered now: user/name
//	X: the message that was delivered by this name is removed by somebody else
//	E: the server hangs up without another word
//	N: the client goes away, and another one connects
//
// With -update the words of S: and S= lines are written anew, but not what
// they mean: +OK, -ERR and the response code stay, and so do lines of a
// multi-line reply, unless the line is "S: ?".
func play(t *testing.T, pattern string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", pattern))
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts of the name %s: %v", pattern, err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			t.Parallel()
			a, err := txtar.ParseFile(f)
			if err != nil {
				t.Fatal(err)
			}
			script := newWorld().play(t, string(a.Comment), a.Files...)
			if *update && !t.Failed() {
				a.Comment = []byte(script)
				if err := os.WriteFile(f, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// play plays one dialogue and returns it with the server's lines as they were.
func (w *world) play(t *testing.T, script string, files ...txtar.File) string {
	t.Helper()
	p := &player{t: t, w: w, files: files}
	return p.run(script)
}

type player struct {
	t     *testing.T
	w     *world
	files []txtar.File
	uids  map[string]string // unique-id by file name

	pipe      net.Conn
	conn      net.Conn // pipe, or TLS on it
	r         *bufio.Reader
	sent      chan struct{} // closed when the last write is done
	greeting  string
	challenge string
}

func (p *player) run(script string) string {
	p.t.Helper()
	p.uids = map[string]string{}
	for _, f := range p.files {
		if !strings.Contains(script, "\nD: "+f.Name+"\n") {
			p.deliver(f.Name)
		}
	}
	var out strings.Builder
	for i, line := range strings.Split(strings.TrimSuffix(script, "\n"), "\n") {
		got, err := p.step(line)
		if err != nil {
			p.t.Errorf("line %d: %s\n%v", i+1, line, err)
			break
		}
		out.WriteString(got + "\n")
	}
	if p.conn != nil {
		p.hangUp()
	}
	return out.String()
}

func (p *player) deliver(name string) error {
	user, _, _ := strings.Cut(name, "/")
	for _, f := range p.files {
		if f.Name == name {
			p.uids[name] = p.w.store.Deliver(user, string(f.Data))
			return nil
		}
	}
	return errors.New("no such file")
}

// step does one line of the dialogue and returns it as it should have been.
func (p *player) step(line string) (string, error) {
	if len(line) < 2 || line[0] == '#' {
		return line, nil
	}
	op, text := line[:2], strings.TrimPrefix(line[2:], " ")
	if op == "O:" {
		return line, p.w.option(text)
	}
	if p.conn == nil {
		p.start()
	}
	switch op {
	case "C:":
		p.send(text + "\r\n")
	case "C+":
		p.send(strings.ReplaceAll(text, " | ", "\r\n") + "\r\n")
	case "C=":
		raw, err := strconv.Unquote(text)
		if err != nil {
			return "", err
		}
		p.send(raw)
	case "A:":
		user, secret, _ := strings.Cut(text, " ")
		p.send("APOP " + user + " " + apopDigest(p.greeting, secret) + "\r\n")
	case "M:":
		user, secret, _ := strings.Cut(text, " ")
		p.send(cramResponse(p.challenge, user, secret) + "\r\n")
	case "S:", "S=", "S~":
		return p.expect(op, text)
	case "T:":
		<-p.sent
		tc := tls.Client(p.conn, &tls.Config{InsecureSkipVerify: true})
		if err := tc.HandshakeContext(p.t.Context()); err != nil {
			return "", err
		}
		p.conn = tc
		p.r.Reset(tc)
	case "N:":
		p.hangUp()
		p.start()
	case "D:":
		return line, p.deliver(text)
	case "X:":
		user, _, _ := strings.Cut(text, "/")
		if !p.w.store.Remove(user, p.uids[text]) {
			return "", errors.New("no such message")
		}
	case "E:":
		s, err := p.r.ReadString('\n')
		if !hungUp(err) || s != "" {
			return "", fmt.Errorf("got %q, %v, want the end of the connection", s, err)
		}
	default:
		return "", errors.New("what is this line?")
	}
	return line, nil
}

func (p *player) start() {
	p.pipe = p.w.connect(p.t)
	p.conn = p.pipe
	p.conn.SetDeadline(time.Now().Add(time.Minute)) // more than any transcript takes
	p.r = bufio.NewReader(p.conn)
	p.sent = make(chan struct{})
	close(p.sent)
	p.greeting = ""
}

// hangUp closes the pipe, without the goodbye of TLS, which nobody would read.
func (p *player) hangUp() {
	p.pipe.Close()
	<-p.sent
	p.w.wait(p.t)
}

// send writes in order, but waits for nobody: a pipe has no buffer, and the
// server may be writing itself, or gone.
func (p *player) send(s string) {
	before, done, conn := p.sent, make(chan struct{}), p.conn
	p.sent = done
	go func() { // ends when the connection does
		defer close(done)
		<-before
		io.WriteString(conn, s)
	}()
}

func (p *player) expect(op, want string) (string, error) {
	got, err := p.r.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("got %q, %w", got, err)
	}
	if p.greeting == "" {
		p.greeting = got
	}
	if rest, ok := strings.CutPrefix(got, "+ "); ok {
		p.challenge = rest
	}
	text, crlf := strings.CutSuffix(got, "\r\n")
	switch op {
	case "S~":
		if !crlf || !regexp.MustCompile("^(?:"+want+")$").MatchString(text) {
			return "", fmt.Errorf("got %q", got)
		}
		return "S~ " + want, nil
	case "S=":
		if want, err = strconv.Unquote(want); err != nil {
			return "", err
		}
	case "S:":
		if want != "?" {
			want += "\r\n"
		}
	}
	if got != want && !(*update && sameMeaning(got, want)) {
		return "", fmt.Errorf("got %q\nwant %q", got, want)
	}
	if op == "S=" || !crlf || strings.TrimRight(text, " ") != text || strconv.Quote(text) != `"`+text+`"` && strings.ContainsFunc(text, unprintable) {
		return "S= " + strconv.Quote(got), nil
	}
	return strings.TrimSuffix("S: "+text, " "), nil
}

func unprintable(r rune) bool { return !strconv.IsPrint(r) || r == '\uFFFD' }

// sameMeaning says that two lines differ in no more than words that are for
// people.
func sameMeaning(got, want string) bool {
	meaning := regexp.MustCompile(`^(\+OK|-ERR)( \[[^]]*\])?`)
	m := meaning.FindString(got)
	return want == "?" || m != "" && m == meaning.FindString(want)
}

func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, io.ErrUnexpectedEOF)
}

var stamp = regexp.MustCompile(`<[^>]*>`)

// apopDigest is the digest of RFC 1939 section 7 for a server's greeting.
func apopDigest(greeting, secret string) string {
	sum := md5.Sum([]byte(stamp.FindString(greeting) + secret))
	return hex.EncodeToString(sum[:])
}

// cramResponse answers a challenge in base64 as RFC 2195 section 2 says.
func cramResponse(challenge, user, secret string) string {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(challenge))
	if err != nil {
		return err.Error()
	}
	mac := hmac.New(md5.New, []byte(secret))
	mac.Write(raw)
	return base64.StdEncoding.EncodeToString([]byte(user + " " + hex.EncodeToString(mac.Sum(nil))))
}
