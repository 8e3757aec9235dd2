package krb5test

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jcmturner/gokrb5/v8/crypto"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/types"

	"github.com/kpopd/kpopd/authn/krb5"
)

// KDC is a key distribution centre for one or more realms (RFC 4120). Its
// methods may be called while it serves.
type KDC struct {
	Lifetime time.Duration // of tickets; 10 h when zero
	Ahead    time.Duration // of its clock, before ours

	realms []string

	mu         sync.Mutex
	principals map[string]*principal // by name with realm

	udp   net.PacketConn
	tcp   net.Listener
	conns map[net.Conn]bool // nil once it was closed
	wg    sync.WaitGroup
}

type principal struct {
	name  types.PrincipalName
	realm string
	salt  string
	keys  []key // newest version first, best enctype first within one
	fault fault
	bare  bool // no pre-authentication is asked for

	sessions []int32 // enctypes of session keys, in place of the default
}

type key struct {
	kvno int
	types.EncryptionKey
}

// fault is what is wrong with a client.
type fault struct {
	code int32 // of KRB-ERROR; 0 for none
	text string
}

// NewKDC makes a KDC; the first realm is the one of names without any.
func NewKDC(realms ...string) *KDC {
	k := &KDC{realms: realms, principals: map[string]*principal{}, conns: map[net.Conn]bool{}}
	for _, r := range realms {
		k.AddService("krbtgt/"+r+"@"+r, krb5.AES256SHA1)
		k.AddService("kadmin/changepw@"+r, krb5.AES256SHA1)
	}
	return k
}

// split takes apart a name like "alice", "alice@REALM" or "pop/localhost".
func (k *KDC) split(full string) (types.PrincipalName, string) {
	name, realm, ok := strings.Cut(full, "@")
	if !ok {
		realm = k.realms[0]
	}
	kind := int32(nametype.KRB_NT_PRINCIPAL)
	if strings.HasPrefix(name, "krbtgt/") {
		kind = nametype.KRB_NT_SRV_INST
	}
	return types.PrincipalName{NameType: kind, NameString: strings.Split(name, "/")}, realm
}

func fullName(n types.PrincipalName, realm string) string {
	return strings.Join(n.NameString, "/") + "@" + realm
}

// AddUser makes a client with a password. Enctypes are of its long-term keys;
// the two of AES with SHA-1 when none is given, as KDCs have them by default.
func (k *KDC) AddUser(name, password string, enctypes ...int32) {
	if len(enctypes) == 0 {
		enctypes = []int32{krb5.AES256SHA1, krb5.AES128SHA1}
	}
	n, realm := k.split(name)
	p := &principal{name: n, realm: realm, salt: n.GetSalt(realm)}
	for _, e := range enctypes {
		key1, _, err := crypto.GetKeyFromPassword(password, n, realm, e, nil)
		if err != nil {
			panic("krb5test: " + err.Error()) // an enctype that gokrb5 does not know
		}
		p.keys = append(p.keys, key{1, key1})
	}
	k.put(p)
}

// AddService makes a service with random keys; the four enctypes of AES when
// none is given.
func (k *KDC) AddService(name string, enctypes ...int32) {
	n, realm := k.split(name)
	p := &principal{name: n, realm: realm}
	p.keys = randomKeys(1, enctypes)
	k.put(p)
}

// Alias gives a service a second name under the keys that it has now, as all
// services of one account of Active Directory have the same.
func (k *KDC) Alias(name, of string) {
	n, realm := k.split(name)
	var keys []key
	k.change(of, func(p *principal) { keys = slices.Clone(p.keys) })
	k.put(&principal{name: n, realm: realm, keys: keys})
}

func randomKeys(kvno int, enctypes []int32) []key {
	if len(enctypes) == 0 {
		enctypes = krb5.DefaultEnctypes()
	}
	var keys []key
	for _, e := range enctypes {
		keys = append(keys, key{kvno, types.EncryptionKey{KeyType: e, KeyValue: randomKey(e)}})
	}
	return keys
}

// randomKey has our own sizes: gokrb5 makes keys of enctype 20 too short.
func randomKey(enctype int32) []byte {
	size := 16
	if enctype == krb5.AES256SHA1 || enctype == krb5.AES256SHA2 {
		size = 32
	}
	b := make([]byte, size)
	rand.Read(b)
	return b
}

// Rotate gives a service new keys under the next version and returns that. The
// old keys stay for keytabs, not for tickets.
func (k *KDC) Rotate(name string) (kvno int) {
	k.change(name, func(p *principal) {
		var enctypes []int32
		for _, x := range p.keys {
			if x.kvno == p.keys[0].kvno {
				enctypes = append(enctypes, x.KeyType)
			}
		}
		kvno = p.keys[0].kvno + 1
		p.keys = append(randomKeys(kvno, enctypes), p.keys...)
	})
	return kvno
}

// Lock makes a client that the KDC refuses.
func (k *KDC) Lock(name string) {
	k.change(name, func(p *principal) { p.fault = fault{errRevoked, "CLIENT_REVOKED"} })
}

// ExpirePassword makes a client that must change its password first.
func (k *KDC) ExpirePassword(name string) {
	k.change(name, func(p *principal) { p.fault = fault{errKeyExpired, "KEY_EXPIRED"} })
}

// NoPreauth makes a client that gets its tickets unproven.
func (k *KDC) NoPreauth(name string) {
	k.change(name, func(p *principal) { p.bare = true })
}

// SessionEnctypes sets what session keys of tickets for a service may be.
func (k *KDC) SessionEnctypes(name string, enctypes ...int32) {
	k.change(name, func(p *principal) { p.sessions = enctypes })
}

// Trust lets clients of realm from get tickets of realm to, and not the other
// way round.
func (k *KDC) Trust(from, to string) {
	n, _ := k.split("krbtgt/" + to)
	keys := randomKeys(1, []int32{krb5.AES256SHA1})
	k.put(&principal{name: n, realm: from, keys: keys})
}

func (k *KDC) put(p *principal) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.principals[fullName(p.name, p.realm)] = p
}

func (k *KDC) change(name string, f func(*principal)) {
	n, realm := k.split(name)
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.principals[fullName(n, realm)]
	if p == nil {
		panic("krb5test: no principal " + name)
	}
	f(p)
}

// find returns a copy of a principal.
func (k *KDC) find(n types.PrincipalName, realm string) (principal, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.principals[fullName(n, realm)]
	if p == nil {
		return principal{}, false
	}
	c := *p
	c.keys = slices.Clone(p.keys)
	return c, true
}

// Listen serves UDP and TCP on one port of a loopback address; port 0 finds a
// free one.
func (k *KDC) Listen(addr string) error {
	for range 20 { // until a port is free for both
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		udp, err := net.ListenPacket("udp", tcp.Addr().String())
		if err == nil {
			k.tcp, k.udp = tcp, udp
			k.wg.Add(2)
			go k.serveTCP() // until Close
			go k.serveUDP() // until Close
			return nil
		}
		tcp.Close()
		if !strings.HasSuffix(addr, ":0") {
			return err
		}
	}
	return errors.New("no port is free for both TCP and UDP")
}

// Addr is where it listens.
func (k *KDC) Addr() string { return k.tcp.Addr().String() }

// Close stops serving, if it has begun, and waits until all is done.
func (k *KDC) Close() error {
	if k.tcp == nil {
		return nil
	}
	err := errors.Join(k.tcp.Close(), k.udp.Close())
	k.mu.Lock()
	for c := range k.conns {
		c.Close()
	}
	k.conns = nil
	k.mu.Unlock()
	k.wg.Wait()
	return err
}

const (
	maxRequest  = 64 << 10
	maxUDPReply = 1400
)

func (k *KDC) serveUDP() {
	defer k.wg.Done()
	buf := make([]byte, maxRequest)
	for {
		n, from, err := k.udp.ReadFrom(buf)
		if err != nil {
			return
		}
		reply := k.Answer(buf[:n])
		if len(reply) > maxUDPReply {
			reply = k.refusal(types.PrincipalName{}, k.realms[0], &kdcError{code: errTooBig, text: "RESPONSE_TOO_BIG"})
		}
		k.udp.WriteTo(reply, from)
	}
}

func (k *KDC) serveTCP() {
	defer k.wg.Done()
	for {
		c, err := k.tcp.Accept()
		if err != nil {
			return
		}
		if !k.admit(c) {
			c.Close()
			return
		}
		go k.serveConn(c) // until the client closes, or Close
	}
}

// admit counts a connection; there are none after Close, which might have
// missed one that was accepted just before.
func (k *KDC) admit(c net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conns == nil {
		return false
	}
	k.conns[c] = true
	k.wg.Add(1)
	return true
}

func (k *KDC) serveConn(c net.Conn) {
	defer func() {
		c.Close()
		k.mu.Lock()
		delete(k.conns, c)
		k.mu.Unlock()
		k.wg.Done()
	}()
	var size [4]byte
	for {
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(size[:])
		if n > maxRequest {
			return
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		reply := k.Answer(b)
		if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(reply))), reply...)); err != nil {
			return
		}
	}
}

// Krb5Conf is a configuration with which MIT's, Heimdal's and gokrb5's clients
// find this KDC and no other, without DNS.
func (k *KDC) Krb5Conf() string { return krb5Conf(k.Addr(), k.realms...) }

func krb5Conf(kdc string, realms ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `[libdefaults]
    default_realm = %s
    dns_lookup_kdc = false
    dns_lookup_realm = false
    dns_canonicalize_hostname = false
    rdns = false
    qualify_shortname = ""
    ignore_acceptor_hostname = true
    forwardable = true
    udp_preference_limit = 1
    allow_weak_crypto = true
    permitted_enctypes = aes256-cts-hmac-sha384-192 aes128-cts-hmac-sha256-128 aes256-cts-hmac-sha1-96 aes128-cts-hmac-sha1-96 arcfour-hmac
    default_tkt_enctypes = aes256-cts-hmac-sha1-96 aes128-cts-hmac-sha1-96 aes256-cts-hmac-sha384-192 aes128-cts-hmac-sha256-128 arcfour-hmac
    default_tgs_enctypes = aes256-cts-hmac-sha384-192 aes128-cts-hmac-sha256-128 aes256-cts-hmac-sha1-96 aes128-cts-hmac-sha1-96 arcfour-hmac
    allow_rc4 = true

[realms]
`, realms[0])
	for _, r := range realms {
		fmt.Fprintf(&b, "    %s = {\n        kdc = %s\n    }\n", r, kdc)
	}
	fmt.Fprintf(&b, "\n[domain_realm]\n    localhost = %s\n    .test = %s\n", realms[0], realms[0])
	return b.String()
}
