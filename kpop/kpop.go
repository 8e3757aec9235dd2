// Package kpop speaks the Kerberos handshake that comes before POP3 on a KPOP
// port, on both sides. It knows tickets and octets; what follows the
// handshake is ordinary POP3 and none of its business.
//
// There is no RFC. The exchange is that of krb5_sendauth and krb5_recvauth
// with the application version "KPOPV1.0" and a ticket for pop/HOST; the
// client speaks first, and every message but the status octet is preceded by
// its length in four octets, most significant first:
//
//	C: 00 00 00 13  "KRB5_SENDAUTH_V1.0" 00     the NUL counts
//	C: 00 00 00 09  "KPOPV1.0" 00
//	S: 00                                       01: other sendauth version, 02: other application version; then close
//	C: LL LL LL LL  AP-REQ                      DER, begins with 6e
//	S: 00 00 00 00                              the ticket was taken, or
//	S: LL LL LL LL  KRB-ERROR                   DER, begins with 7e; then close
//	S: LL LL LL LL  AP-REP                      DER, begins with 6f; only when the AP-REQ asked for mutual authentication
//	S: +OK ready                                POP3 from here on, in the clear
//
// The name given to USER is judged when PASS arrives, by the mechanism that
// [Mechanism] makes; what PASS says is not read.
//
// # Design notes
//
// Clients differ in how they cut this into segments: MIT's library writes both
// versions at once, Heimdal's writes four pieces, Eudora writes all three
// messages without waiting for the status, Heimdal's push adds its first POP3
// commands. So one buffered reader serves from the first octet to the last one
// that was read ahead, and is let go when it is empty.
//
// The session that follows is not bound to the ticket's session key, which
// makes an AP-REQ as good as a password until the replay cache has seen it.
// An AP-REQ made for SASL GSSAPI is told by its checksum and refused here, or
// an attacker in the middle of a GSSAPI login could redirect it to this port.
//
// Whoever is refused is told so in the protocol that he began to speak, and
// nobody is told more than his own mistake.
package kpop

const (
	sendauthVersion = "KRB5_SENDAUTH_V1.0\x00"
	appVersion      = "KPOPV1.0"
)

// What the server says to the two versions.
const (
	statusOK      = 0
	statusBadAuth = 1 // another version of sendauth
	statusBadAppl = 2 // another application
)

// Octets of the longest messages that are read.
const (
	maxSendauth     = 64
	maxAppVersion   = 256
	defaultMaxAPReq = 128 << 10
)

// step names this package in errors and traces.
const step = "KPOP"
