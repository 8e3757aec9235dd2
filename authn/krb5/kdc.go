package krb5

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	kdcTotal = 10 * time.Second // for all KDCs together, unless the caller's deadline is sooner
	kdcTurn  = 3 * time.Second  // for one of them while there are others to ask
	kdcRest  = 30 * time.Second // that one is asked last after it did not answer
	kdcPort  = "88"
	maxReply = 128 << 10 // octets; tickets of Windows stay below 64 KiB
)

// kdc is one address of a realm's KDCs.
type kdc struct {
	address string
	dial    func(ctx context.Context, network, address string) (net.Conn, error)
	rests   atomic.Int64 // until then, in nanoseconds since 1970; 0 while it answers
}

// inOrder is the list as it is to be asked: as configured, but those last that
// did not answer a moment ago. When a rest is over, one caller tries the KDC
// first; the others go on as if it rested until he knows.
func inOrder(all []*kdc, now time.Time) []*kdc {
	var first, last []*kdc
	for _, k := range all {
		until := k.rests.Load()
		if until == 0 || until <= now.UnixNano() && k.rests.CompareAndSwap(until, now.Add(kdcRest).UnixNano()) {
			first = append(first, k)
		} else {
			last = append(last, k)
		}
	}
	return append(first, last...)
}

func (k *kdc) answered()          { k.rests.Store(0) }
func (k *kdc) failed(t time.Time) { k.rests.Store(t.Add(kdcRest).UnixNano()) }

// turn bounds what the next of n KDCs may take of ctx's time: the others may be
// as slow. The last has all that is left.
func turn(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	end, bounded := ctx.Deadline()
	if !bounded || n == 1 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, min(kdcTurn, time.Until(end)/time.Duration(n)))
}

// ask sends one request over a connection of its own, which is how every KDC
// will have it: MIT's closes after a reply.
//
// Deviation: no UDP, which RFC 4120 section 7.2.1 says a client SHOULD be able
// to use. Every KDC must have TCP; with UDP come retransmission, and replies of
// Windows that do not fit in it.
func (k *kdc) ask(ctx context.Context, request []byte) ([]byte, error) {
	conn, err := k.dial(ctx, "tcp", k.address)
	switch {
	case errors.Is(err, context.DeadlineExceeded): // the dialler says "i/o timeout", maybe a moment before ctx
		return nil, fmt.Errorf("connect: %w", context.DeadlineExceeded)
	case err != nil:
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	reply, err := exchange(conn, request)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return reply, err
}

// exchange frames as RFC 4120 section 7.2.2 has it.
func exchange(conn io.ReadWriter, request []byte) ([]byte, error) {
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(request))), request...)); err != nil {
		return nil, err
	}
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, fmt.Errorf("no reply: %w", err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxReply {
		return nil, fmt.Errorf("a reply of %d octets, which is too long", n)
	}
	reply := make([]byte, n)
	if _, err := io.ReadFull(conn, reply); err != nil {
		return nil, fmt.Errorf("reply broke off: %w", err)
	}
	return reply, nil
}

// withPort puts in the port that KDCs have by default.
func withPort(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil { // no port, or an IPv6 address without brackets
		host, port = strings.TrimSuffix(strings.TrimPrefix(address, "["), "]"), kdcPort
		if _, _, err = net.SplitHostPort(net.JoinHostPort(host, port)); err != nil {
			return "", err
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); host == "" || n == 0 || err != nil {
		return "", fmt.Errorf("%q is no address of a KDC: write host or host:port", address)
	}
	return net.JoinHostPort(host, port), nil
}
