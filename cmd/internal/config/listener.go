package config

import (
	"net"
	"net/netip"
	"slices"
	"strings"
)

func (p *problems) listener(at string, l Listener) {
	p.oneOf(at+".protocol", l.Protocol, ProtocolPOP3, ProtocolKPOP)
	p.oneOf(at+".tls", l.TLS, TLSNone, TLSStart, TLSImplicit)
	p.address(at+".address", l.Address)
	for j, other := range p.c.Listeners {
		if other.Name != l.Name && overlap(l.Address, other.Address) {
			p.add(at+".address", "%s takes what listeners[%d] listens on, %s; choose another", l.Address, j, other.Address)
			break
		}
	}
	if l.UsesTLS() && len(p.c.Certificates) == 0 {
		p.add(at+".tls", "%s needs a certificate; add one to certificates", l.TLS)
	}
	if l.Certificate != "" {
		refer(p, at+".certificate", "certificate", l.Certificate, p.c.Certificates, func(x Certificate) string { return x.Name })
	}
	p.clientCA(at, l)
	x, ok := refer(p, at+".policy", "policy", l.Policy, p.c.Policies, func(x Policy) string { return x.Name })
	if ok {
		p.listenerPolicy(at, l, x)
	}
}

func (p *problems) clientCA(at string, l Listener) {
	if l.ClientCRL != "" && l.ClientCA == "" {
		p.add(at+".client_crl", "revokes nothing without client_ca; name the authorities that the list is of")
	}
	if l.ClientCA == "" {
		return
	}
	switch {
	case l.KPOP():
		p.add(at+".client_ca", "a kpop listener takes tickets alone; remove it")
	case !l.UsesTLS():
		p.add(at+".client_ca", "certificates come in TLS, which the listener never has; set tls: starttls or implicit")
	case !p.c.usesCertificates(l.Policy):
		p.add(at+".client_ca", "asks every client for a certificate that is of no use, as policy %q does not offer EXTERNAL", l.Policy)
	}
}

// usesCertificates reports whether a policy or its shadow looks at client
// certificates. One that is not there is told elsewhere.
func (c *Config) usesCertificates(name string) bool {
	i := slices.IndexFunc(c.Policies, func(x Policy) bool { return x.Name == name })
	if i < 0 {
		return true
	}
	looks := func(r Rule) bool { return r.Certificate != "" }
	return slices.ContainsFunc(c.Policies, func(x Policy) bool {
		return (x.Name == name || x.Name == c.Policies[i].Shadow) &&
			(slices.Contains(x.Offers, "EXTERNAL") || slices.ContainsFunc(x.Rules, looks) || slices.ContainsFunc(x.Act, looks))
	})
}

// overlap reports whether two sockets cannot be open at the same time: their
// ports are the same, and so are their hosts, or one of them is all addresses.
func overlap(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	return hostA == hostB || isAll(hostA, hostB) || isAll(hostB, hostA)
}

// isAll reports whether host is all addresses of the family of other.
func isAll(host, other string) bool {
	ip, err := netip.ParseAddr(other)
	return host == "" || host == "::" || host == "0.0.0.0" && (err != nil || ip.Is4())
}

// address wants host:port. A host that is a name is looked up when the socket
// is opened.
func (p *problems) address(key, address string) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		p.add(key, "%q is no address; write host:port or :port", address)
		return
	}
	if port == "" { // the system would choose one
		p.add(key, "%q has no port; write host:port or :port", address)
	} else if _, err := net.LookupPort("tcp", port); err != nil {
		p.add(key, "%q is no port; write a number from 1 to 65535", port)
	}
	if strings.Trim(host, "0123456789.") == "" && host != "" {
		if _, err := netip.ParseAddr(host); err != nil {
			p.add(key, "%q is no IP address", host)
		}
	}
}

// listenerPolicy refuses a policy that offers what the listener can never do.
func (p *problems) listenerPolicy(at string, l Listener, x Policy) {
	if l.KPOP() {
		if l.TLS == TLSImplicit {
			p.add(at+".tls", "a kpop client speaks before any TLS could begin; write starttls or none")
		}
		if !slices.Contains(x.Offers, "KPOP") {
			p.add(at+".policy", "policy %q does not offer KPOP, the only mechanism of a kpop listener", x.Name)
		}
		return
	}
	usable := 0
	for _, name := range x.Offers {
		m, _ := mechanismNamed(name)
		switch {
		case name == "KPOP":
		case name == "EXTERNAL" && l.ClientCA == "":
			// the policy may be for other listeners too
		case !l.UsesTLS() && x.BeforeTLS != nil && !slices.Contains(x.BeforeTLS, name):
			// the policy may be for other listeners too
		case m.bound && !l.UsesTLS():
			p.add(at+".policy", "policy %q offers %s, which is bound to TLS, and the listener never has TLS; "+
				"set tls: starttls or implicit", x.Name, name)
		case m.token && !l.UsesTLS():
			p.add(at+".policy", "policy %q offers %s, which shows a token, and the listener never has TLS; "+
				"set tls: starttls or implicit", x.Name, name)
		case m.tls && !l.UsesTLS():
			p.add(at+".policy", "policy %q offers %s, which is there inside TLS only, and the listener never has TLS; "+
				"set tls: starttls or implicit", x.Name, name)
		case name == "GSSAPI" && !l.UsesTLS() && p.c.GSSAPI.ChannelBinding == "require":
			p.add(at+".policy", "policy %q offers GSSAPI, which gssapi.channel_binding binds to TLS, and the listener never has TLS", x.Name)
		case m.plaintext && !l.UsesTLS() && x.Plain != PlainTrusted:
			p.add(at+".policy", "policy %q offers %s, which shows a password, and the listener never has TLS; "+
				"set tls: starttls or implicit, or plain: trusted in the policy", x.Name, name)
		default:
			usable++
		}
	}
	if usable == 0 {
		p.add(at+".policy", "policy %q offers nothing that a client of this listener could use", x.Name)
	}
}

// KPOP reports whether clients begin with a ticket.
func (l Listener) KPOP() bool { return l.Protocol == ProtocolKPOP }

// UsesTLS reports whether a client can have TLS.
func (l Listener) UsesTLS() bool { return l.TLS == TLSStart || l.TLS == TLSImplicit }

// inTheClear reports whether the listener speaks KPOP to more than this
// machine: what follows the ticket is not encrypted.
func (l Listener) inTheClear() bool {
	host, _, _ := net.SplitHostPort(l.Address)
	a, err := netip.ParseAddr(host)
	return l.KPOP() && host != "localhost" && (err != nil || !a.IsLoopback())
}
