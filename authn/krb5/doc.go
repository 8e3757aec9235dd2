// Package krb5 accepts Kerberos tickets (RFC 4120), for KPOP and SASL GSSAPI
// alike, and shows them, for clients that we write ourselves. It also checks
// passwords, by getting tickets with them.
//
// It is the only package that knows gokrb5, of which it uses messages, types,
// keytabs and cryptography. Verifying is done here.
//
// # Design notes
//
// Who the client is stands in the ticket, which the KDC wrote. The
// authenticator, which the client wrote, only has to say the same.
//
// Nothing is decrypted before its length was checked against the enctype's
// confounder and checksum, no key is used before its length was checked
// against our own table (gokrb5 has a wrong one for enctype 20), and no
// authorization data of a ticket is decoded at all. What still panics on a
// stranger's octets is an undecodable message, no more.
//
// The replay cache is asked last, so that nothing but valid requests fills it.
// An AP-REQ is a bearer token until it is in there: a cache that cannot answer
// means that nobody gets in.
//
// Deviation: authorization data of an unknown kind outside AD-IF-RELEVANT does
// not fail the authentication, as RFC 4120 section 5.2.6 wants. To know the
// kinds, a ticket's would have to be decoded, which a client can have filled
// with what it likes; and nothing that they say of groups or of another
// service's rights bears on whose mailbox it is.
//
// [Passwords] trusts a KDC for refusals only: a ticket counts when the acceptor
// takes it, with our own key. It asks for a ticket for our service at once, in
// two requests where a ticket-granting ticket would make three. gokrb5's client
// is not used: it knows no context and waits as long as it likes. No KRB-ERROR
// is a wrong password unless RFC 4120 says that it speaks of the user.
package krb5
