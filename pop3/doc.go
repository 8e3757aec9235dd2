// Package pop3 speaks the server side of POP3 (RFC 1939) with CAPA and
// response codes (RFC 2449, RFC 3206), STLS (RFC 2595), SASL (RFC 5034), and
// UTF8 and LANG (RFC 6856).
//
// It knows nothing of Kerberos, directories or mailbox formats: a [Backend]
// does. It does not listen, either: give [Server.ServeConn] connections.
//
// # Design notes
//
// A session is one goroutine. Everything that can be checked before a handler
// runs stands in the table of commands; a handler does one thing and says +OK,
// or returns an error and writes nothing. One function turns errors
// into what a client may know, so that the text of an unknown error cannot
// reach the wire.
//
// Only the session's own reads and writes make an [ending]; an error of a
// store or a mechanism never passes for a lost connection.
//
// Replies leave when the session is about to wait for input, so that a batch
// of pipelined commands is answered by one write. Buffers belong to commands:
// an idle session holds one command line to read into and nothing to write from.
// Before login the largest are 96 KiB for a line of an AUTH exchange and 4 KiB
// for replies: only listings and messages get a larger one.
//
// A message goes out in one pass. A line ends at LF; an LF without a CR before
// it is sent as CRLF, and a CR without an LF after it is an ordinary octet
// that ends nothing and starts no line to be stuffed. A last line without an
// end gets one. What was sent is compared with what LIST said; when they
// differ, and when the store fails in the middle, the session ends without the
// final dot, because a client that sees the dot will delete the message.
//
// Deadlines: one for all of the AUTHORIZATION state, which no command extends;
// one for each command after it; one for each 64 KiB written. A deadline is
// set first and the drain looked at afterwards, or a shutdown between the two
// would be undone.
//
// A server that drains takes no further input: what was already read is
// answered, a message on its way may finish within DrainTimeout, a QUIT that
// arrived is carried out, and idle clients are told nothing.
//
// # Choices
//
// Where the RFCs leave room:
//
//   - The greeting has a timestamp only where APOP is offered.
//   - AUTH without an argument lists the mechanisms.
//   - Numbers have no sign and no leading zeros.
//   - Spaces at the end of a line are ignored, except after PASS, whose
//     argument is the rest of the line.
//   - Command lines hold up to 512 octets; a longer one is read to its end and
//     answered once. A line may end in LF alone.
//   - PASS must follow USER with nothing between them but CAPA or an AUTH that
//     failed (RFC 5034 section 4).
//   - UTF8 is announced without USER: whether a name beyond ASCII is known is
//     for the mechanism to say.
//   - A client whose first line is HTTP, SMTP, a PROXY header or a TLS hello
//     gets one -ERR and is cut. Three refused commands before login, or twenty
//     in a row after it, end the session, as do MaxFailures refused logins.
//   - A message that has vanished is refused once; asking for it again ends
//     the session.
//
// Deviation: AUTH lines may be longer than the 255 octets of RFC 5034 section
// 4, because Net::POP3 of Perl puts a whole Kerberos token there.
//
// Deviation: a message whose header has octets above 127 is sent as it is
// stored to clients that did not say UTF8 too. RFC 6856 wants it refused or
// rewritten. Refused, old clients would never get mail that carries
// Latin-1 in its subject, which they have always been able to show; rewritten,
// LIST would have to read every message to tell its size. UTF8 changes no
// octet here, so sizes are the same in both modes.
package pop3
