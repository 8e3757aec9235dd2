package krb5test

import (
	"errors"
	"net"
	"os"
	"strconv"
	"syscall"
)

// Port is a TCP port of 127.0.0.1 for a server that a test starts, stops and
// starts again there. A socket that is bound to it and does not listen keeps the
// kernel from giving it to others who ask for any port, or connect from one, and
// is in nobody's way who asks for this one with SO_REUSEADDR, as servers do. The
// port is kept until Close, or as long as anything refers to the Port: who only looked for a free port
// would sometimes find it taken by the time that the server starts, even by
// itself, in a copy that a child of another test holds until it executes its
// program.
type Port struct {
	addr string
	held *os.File
}

// ReservePort finds a free port and keeps it.
func ReservePort() (*Port, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	p := &Port{held: os.NewFile(uintptr(fd), "port")}
	err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	err = errors.Join(err, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	at, e := syscall.Getsockname(fd)
	if err = errors.Join(err, e); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	p.addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(at.(*syscall.SockaddrInet4).Port))
	return p, nil
}

// Addr is the port with its host.
func (p *Port) Addr() string { return p.addr }

// Close gives the port back.
func (p *Port) Close() error { return p.held.Close() }
