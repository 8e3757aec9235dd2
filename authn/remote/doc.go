// Package remote is a chain of verifiers, and the acceptor of tickets, in
// another process: the front, which talks to strangers, has a [Client]; the
// helper, under a uid of its own, has a [Server] and is the only one that can
// read keytab, password hashes and secrets of directories.
//
// A client of the helper gets answers for attempts that it names, one at a time:
// never a hash, never a key of the keytab. It does get what a mechanism has to
// have: the stored secret of one user for a challenge, the session key of one
// ticket for what follows it.
//
// On the unix socket each way is a sequence of frames:
//
//	HHHH PPPP  octets of head and payload, most significant first
//	head       a JSON object, see message
//	payload    a password, a secret, an AP-REQ or session keys, as they are
//
// The first frame of either side is a hello with the version of this protocol.
// Then the front asks and the helper answers, in any order, told apart by id:
//
//	front   password id  ...  login, transport      + password
//	helper  answer   id  ...  identity or failure, steps
//	front   accept   id  ...  address               + AP-REQ
//	helper  check    id  ...  context               + session keys
//	front   verdict  id  ...  nothing or failure
//	helper  answer   id  ...  nothing or failure
//	front   cancel   id       nobody waits any more
//
// # Design notes
//
// JSON, because gob's decoder is not made for octets of strangers, and a front
// that was taken over is one. Secrets are no part of it: its encoder keeps
// buffers that cannot be wiped. Names and texts that strangers chose are octets,
// not JSON strings, which would make the same name of any two that are no UTF-8.
//
// The protocol of a ticket is [krb5.Acceptor.Accept] with its Check on the other
// side, so that the replay cache, in the helper, hears of no ticket that the
// mechanism refuses, and of none that no KDC made.
//
// An attempt is sent once. What a helper that went away has heard, it may have
// done; so the attempt is Unavailable at once, and the next one finds the new
// helper. Only a frame that went out in part is sent again: nobody acts on it.
//
// Acting for another is the front's to decide: the helper says who a principal
// is, or that he may not have a login, and is asked about users.
//
// Results are those of the chain in the same process: kinds, texts, steps in the
// trace. Of TLS the helper learns version, cipher suite, server name and end
// point. Of keys for SCRAM the front learns with each answer about a secret, good
// or bad, the iterations and the salt that most users have, so that a name that
// nobody has is shown the same.
//
// Tokens and client certificates are judged in the front. Their verifiers hold
// nothing that opens a mailbox: keys of issuers and authorities are public, and
// with the secret for an introspection tokens can be asked about, not made. CAPA
// depends on whose a certificate is and must not wait for another process. Accounts
// that the helper knows are closed to both, when it is asked about users.
package remote
