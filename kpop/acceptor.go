package kpop

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/kpopd/kpopd/authn"
	"github.com/kpopd/kpopd/authn/krb5"
)

// Tickets takes AP-REQs: a [krb5.Acceptor], or one in another process.
type Tickets interface {
	Accept(ctx context.Context, apReq []byte, o krb5.Options) (*krb5.Context, error)
}

// Acceptor runs the server side. Its fields are only read; it serves any
// number of connections at once.
type Acceptor struct {
	Krb5     Tickets
	Versions []string      // application versions to take; KPOPV1.0 when empty, "*" takes any (Eudora has sent "justjunk")
	MaxAPReq int           // octets of the longest AP-REQ; 128 KiB when zero: tickets with a PAC reach 64 KiB
	Timeout  time.Duration // for the whole handshake; 30 s when zero
	Trace    *authn.Trace  // is told of each handshake that fails, as an attempt
}

// lingerTime is how long a refused client is given to read why.
const lingerTime = 2 * time.Second

// Accept runs the handshake on c and returns who the client is, and the
// connection to go on with: it gives what was read ahead first. The handshake
// ends when ctx does. When it fails, c has been answered in the client's own
// terms and is only good for closing; errors are of a kind of package authn.
func (a *Acceptor) Accept(ctx context.Context, c net.Conn, t *authn.Transport) (net.Conn, *authn.Principal, error) {
	start := time.Now()
	h := &handshake{Acceptor: a, c: c, r: bufio.NewReaderSize(c, 2048)}
	if err := h.bounded(ctx, t); err != nil {
		if a.Trace != nil && a.Trace.Attempt != nil {
			a.Trace.Attempt(ctx, &authn.Attempt{
				Transport: t, Mechanism: step, Principal: h.peer,
				Duration: time.Since(start), Err: err,
			})
		}
		return nil, nil, err
	}
	if h.r.Buffered() == 0 {
		return c, h.peer, nil
	}
	return &conn{Conn: c, r: h.r}, h.peer, nil
}

// handshake is one run of the server side.
type handshake struct {
	*Acceptor
	c    net.Conn
	r    *bufio.Reader
	peer *authn.Principal // as soon as it is proven
}

// bounded runs the handshake until its time is up or ctx ends.
func (h *handshake) bounded(ctx context.Context, t *authn.Transport) error {
	deadline := time.Now().Add(cmp.Or(h.Timeout, 30*time.Second))
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := h.c.SetReadDeadline(deadline); err != nil {
		return aborted(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = h.c.SetReadDeadline(time.Unix(1, 0)) })
	err := h.run(ctx, t)
	if !stop() && err == nil {
		err = aborted(context.Cause(ctx))
	}
	if err != nil {
		return err
	}
	if err := h.c.SetDeadline(time.Time{}); err != nil {
		return aborted(err)
	}
	return nil
}

// run answers the client. What it returns is the outcome, of a kind.
func (h *handshake) run(ctx context.Context, t *authn.Transport) error {
	first, err := h.r.Peek(4)
	o := openingOf(first)
	if o != sendauth {
		h.refuse(o.answer())
		return o.error(err)
	}
	status, err := h.versions()
	if err != nil {
		return aborted(err)
	}
	if status != statusOK {
		h.refuse([]byte{status})
		return malformed(fmt.Errorf("sendauth status %d", status))
	}
	if err := h.write([]byte{status}); err != nil {
		return aborted(err)
	}
	apReq, ok, err := h.message(cmp.Or(h.MaxAPReq, defaultMaxAPReq))
	if err != nil {
		return aborted(err)
	}
	reply, err := h.judge(ctx, t, apReq, ok)
	if err != nil {
		h.refuse(frame(nil, krb5.ErrorReply(err)))
		return err
	}
	if err := h.write(reply); err != nil {
		return aborted(err)
	}
	return nil
}

// versions reads both version messages before it judges either, as MIT's
// recvauth does: the client writes them in one go.
func (h *handshake) versions() (status byte, err error) {
	auth, ok, err := h.message(maxSendauth)
	if err != nil || !ok {
		return statusBadAuth, err
	}
	appl, ok, err := h.message(maxAppVersion)
	switch {
	case err != nil:
		return 0, err
	case string(auth) != sendauthVersion:
		return statusBadAuth, nil
	case !ok || !h.takes(string(appl)):
		return statusBadAppl, nil
	}
	return statusOK, nil
}

// takes compares without the NUL that ends the string: Heimdal takes it
// with and without.
func (h *handshake) takes(version string) bool {
	version = strings.TrimSuffix(version, "\x00")
	if len(h.Versions) == 0 {
		return version == appVersion
	}
	return slices.Contains(h.Versions, version) || slices.Contains(h.Versions, "*")
}

// judge returns what to answer when the AP-REQ is good.
func (h *handshake) judge(ctx context.Context, t *authn.Transport, apReq []byte, ok bool) ([]byte, error) {
	if !ok {
		return nil, &krb5.Error{Code: codeFieldTooLong, Text: "The Kerberos message is too long", Kind: authn.Malformed}
	}
	kc, err := h.Krb5.Accept(ctx, apReq, krb5.Options{Remote: t.Remote.Addr(), Check: h.check})
	if err != nil {
		return nil, err
	}
	reply := make([]byte, 4, 256) // four octets of zero: no error
	if !kc.Mutual {
		return reply, nil
	}
	apRep, err := kc.APRep(nil, nil)
	if err != nil {
		return nil, fmt.Errorf("make AP-REP: %w", err)
	}
	return frame(reply, apRep), nil
}

// codeFieldTooLong is KRB_ERR_FIELD_TOOLONG (RFC 4120 section 7.5.9).
const codeFieldTooLong = 61

// gssChecksum is the type of a checksum that holds the arguments of a GSSAPI
// login (RFC 4121 section 4.1.1).
const gssChecksum = 0x8003

// check runs before the replay cache remembers the authenticator: a GSSAPI
// login that was led astray here may still arrive where it was meant to.
func (h *handshake) check(kc *krb5.Context) error {
	peer := kc.Principal // a copy: a session is not to keep the keys
	h.peer = &peer
	if kc.Checksum != nil && kc.Checksum.Type == gssChecksum {
		return &krb5.Error{Code: krb5.CodeInappCksum, Text: "This request was made for GSSAPI and is not good for KPOP", Kind: authn.Denied}
	}
	return nil
}

// message reads one message of at most limit octets into memory that grows as
// they arrive. It is not ok, and nothing but its length was read, when it
// announces more.
func (h *handshake) message(limit int) (data []byte, ok bool, err error) {
	var length [4]byte
	if _, err := io.ReadFull(h.r, length[:]); err != nil {
		return nil, false, unexpected(err)
	}
	n := binary.BigEndian.Uint32(length[:])
	if int64(n) > int64(limit) {
		return nil, false, nil
	}
	data, err = h.octets(int(n))
	return data, err == nil, err
}

// octets reads n octets. What has arrived at least doubles the memory, which
// never is more than what was announced.
func (h *handshake) octets(n int) ([]byte, error) {
	b := make([]byte, min(n, 2048))
	for have := 0; ; {
		if _, err := io.ReadFull(h.r, b[have:]); err != nil {
			return nil, unexpected(err)
		}
		if have = len(b); have == n {
			return b, nil
		}
		more := make([]byte, min(n, 2*have))
		copy(more, b)
		b = more
	}
}

// write sends b. Deadline: a peer that reads nothing must not hold us.
func (h *handshake) write(b []byte) error {
	if err := h.c.SetWriteDeadline(time.Now().Add(lingerTime)); err != nil {
		return err
	}
	_, err := h.c.Write(b)
	return err
}

// refuse sends the last answer. What the client has still sent is read and
// thrown away for a moment: closing over unread octets resets a TCP connection,
// and the client would see the reset instead of the answer.
func (h *handshake) refuse(answer []byte) {
	if len(answer) == 0 || h.write(answer) != nil {
		return
	}
	half, ok := h.c.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	if h.c.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		_, _ = io.CopyN(io.Discard, h.r, 2*defaultMaxAPReq)
	}
}

// frame appends a message to b.
func frame(b, message []byte) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(message))), message...)
}

// conn gives what the handshake read ahead, then lets go of the buffer.
type conn struct {
	net.Conn
	r *bufio.Reader
}

func (c *conn) Read(b []byte) (int, error) {
	if c.r == nil {
		return c.Conn.Read(b)
	}
	n, err := c.r.Read(b[:min(len(b), c.r.Buffered())])
	if c.r.Buffered() == 0 {
		c.r = nil
	}
	return n, err
}

// CloseWrite is that of the connection underneath: the engine hangs up with it,
// so that a client reads the last reply before the connection is reset.
func (c *conn) CloseWrite() error {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func malformed(err error) error {
	return &authn.Error{Kind: authn.Malformed, Step: step, Err: err}
}

// aborted is the kind of a connection that broke or ran out of time.
func aborted(err error) error {
	return &authn.Error{Kind: authn.Aborted, Step: step, Err: err}
}
