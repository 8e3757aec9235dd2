// Package config reads kpopd's configuration: one YAML file that becomes a
// [Config], or a list of everything that is wrong with it.
//
// It knows what may stand in the file and what can never work. It opens
// nothing that the file names: whether a keytab can be read is found out by
// whoever assembles the server, and is told as a [Problem] at its key too.
//
// # Design notes
//
// Keys are strict: a misspelt key is a problem, never a default. What users
// name (realms, listeners, policies) stands in lists of named things, never in
// map keys, because the loader folds the case of keys.
//
// Every default stands in [Default]. A problem says the file, the line, the
// key and what to do; all of them are told at once.
//
// A scalar setting may be overridden from the environment: KPOPD_ and the key
// in capitals, joined by underscores (KPOPD_LOG_LEVEL=debug). Lists may not.
package config

import (
	"net/netip"
	"strconv"
	"time"
)

// Config is the whole configuration.
type Config struct {
	Listeners    []Listener    `mapstructure:"listeners"`
	Certificates []Certificate `mapstructure:"certificates"`
	Policies     []Policy      `mapstructure:"policies"`
	Chains       []Chain       `mapstructure:"chains"`
	Verifiers    []Verifier    `mapstructure:"verifiers"`
	Names        Names         `mapstructure:"names"`
	Views        Views         `mapstructure:"views"`
	Kerberos     Kerberos      `mapstructure:"kerberos"`
	KPOP         KPOP          `mapstructure:"kpop"`
	GSSAPI       GSSAPI        `mapstructure:"gssapi"`
	SCRAM        SCRAM         `mapstructure:"scram"`
	OAuth        OAuth         `mapstructure:"oauth"`
	POP3         POP3          `mapstructure:"pop3"`
	Maildrops    Maildrops     `mapstructure:"maildrops"`
	Limits       Limits        `mapstructure:"limits"`
	Throttle     Throttle      `mapstructure:"throttle"`
	Log          Log           `mapstructure:"log"`
	Auth         Auth          `mapstructure:"auth"`

	file  string
	lines map[string]int // key path to line
}

// Names says which spellings of a login are one user. Users files, maps and
// maildrops go by the spelling that comes of it.
type Names struct {
	FoldCase      bool     `mapstructure:"fold_case"`      // "Alice" is "alice"
	DefaultDomain string   `mapstructure:"default_domain"` // "alice" is "alice@" this; names without a domain stay so when empty
	StripDomains  []string `mapstructure:"strip_domains"`  // "alice@" any of these is "alice"
}

// What a listener speaks.
const (
	ProtocolPOP3 = "pop3"
	ProtocolKPOP = "kpop"
)

// How a listener uses TLS.
const (
	TLSNone     = "none"
	TLSStart    = "starttls" // the STLS command
	TLSImplicit = "implicit" // from the first octet
)

// Where a password may be shown.
const (
	PlainTLS     = "tls"
	PlainTrusted = "trusted"
)

// Listener is one address that clients connect to.
type Listener struct {
	Name        string `mapstructure:"name"`
	Address     string `mapstructure:"address"`     // host:port; the host may be empty: all addresses
	Protocol    string `mapstructure:"protocol"`    // pop3 or kpop; pop3 when empty
	TLS         string `mapstructure:"tls"`         // none, starttls or implicit; none when empty
	Policy      string `mapstructure:"policy"`      // name of a policy
	Certificate string `mapstructure:"certificate"` // shown to clients that ask for no name or an unknown one; the first when empty
	ClientCA    string `mapstructure:"client_ca"`   // path of the authorities that vouch for client certificates, PEM; no client is asked for one when empty
	ClientCRL   string `mapstructure:"client_crl"`  // path of their revocation lists, PEM or DER; none is revoked when empty, nobody gets in with a certificate when out of date
}

// Certificate is a certificate chain and its key, both PEM files.
type Certificate struct {
	Name string `mapstructure:"name"`
	Cert string `mapstructure:"cert"` // leaf first
	Key  string `mapstructure:"key"`
}

// Policy says which mechanisms a listener offers, and when.
type Policy struct {
	Name             string         `mapstructure:"name"`
	Offers           []string       `mapstructure:"offers"`             // mechanisms, first choice first
	BeforeTLS        []string       `mapstructure:"before_tls"`         // those usable in the clear; absent means all that do not show a password, [] none
	Plain            string         `mapstructure:"plain"`              // tls: passwords inside TLS only; trusted: also from the trusted networks; tls when empty
	Trusted          []netip.Prefix `mapstructure:"trusted"`            // networks for plain: trusted
	Chain            string         `mapstructure:"chain"`              // name of the chain that judges
	Rules            []Rule         `mapstructure:"rules"`              // in order, the first that matches decides; who meets none is allowed
	Act              []Rule         `mapstructure:"act"`                // who may act for whom, the same way; who meets none may act for nobody
	Shadow           string         `mapstructure:"shadow"`             // name of a policy that is judged beside this one and never obeyed; the log tells the differences
	APOPWithPassword bool           `mapstructure:"apop_with_password"` // let a user who has an APOP secret log in with USER and PASS too (against RFC 1939 section 7)
}

// Chain is verifiers in the order in which they are asked.
type Chain struct {
	Name  string `mapstructure:"name"`
	Steps []Step `mapstructure:"steps"`
}

// What a chain does after a step that did not vouch.
const (
	NextContinue = "continue"
	NextReturn   = "return"
)

// Step is one verifier in a chain.
type Step struct {
	Use           string        `mapstructure:"use"`            // name of a verifier
	Timeout       time.Duration `mapstructure:"timeout"`        // zero means the login's own deadline
	OnReject      string        `mapstructure:"on_reject"`      // continue or return; continue when empty
	OnUnavailable string        `mapstructure:"on_unavailable"` // continue or return; continue when empty
}

// Kinds of verifiers.
const (
	VerifierAllow         = "allow"         // list of those who may log in
	VerifierDeny          = "deny"          // list of those who may not
	VerifierFile          = "file"          // users file with hashes and secrets
	VerifierLDAP          = "ldap"          // directory
	VerifierPrincipal     = "principal"     // maps Kerberos principals to users
	VerifierOIDC          = "oidc"          // tokens of an issuer
	VerifierKrb5pw        = "krb5pw"        // asks a KDC about passwords
	VerifierCheckpassword = "checkpassword" // runs a program that knows about passwords
	VerifierCertificate   = "certificate"   // maps client certificates to users
)

// Verifier is one place that vouches for users. Which keys may be set depends
// on the type.
type Verifier struct {
	Name string `mapstructure:"name"`
	Type string `mapstructure:"type"` // file, ldap, oidc, principal, krb5pw, checkpassword, certificate or remote; allow or deny

	Users      string `mapstructure:"users"`       // file: path of logins and password hashes
	Digests    string `mapstructure:"digests"`     // file: path of secrets for APOP and CRAM-MD5, and of keys for SCRAM
	DigestsKey string `mapstructure:"digests_key"` // file: path of the key file that opens sealed secrets, or credential:NAME for a systemd credential; none is sealed when empty
	Rehash     string `mapstructure:"rehash"`      // file: write a hash of this scheme into the users file when a user with a weaker one logs in; hashes stay as they are when empty

	LocalRealms []string `mapstructure:"local_realms"` // principal: realms whose names of one component are users
	Map         string   `mapstructure:"map"`          // principal, certificate: path of explicit grants, asked first
	K5Login     string   `mapstructure:"k5login"`      // principal: path of a user's .k5login, %u is the user; none when empty
	Rules       []string `mapstructure:"rules"`        // principal: auth_to_local rules: "RULE:..." or "DEFAULT"
	RuleRealms  []string `mapstructure:"rule_realms"`  // principal: realms that the rules are for; local_realms when empty
	MailDomains []string `mapstructure:"mail_domains"` // principal, krb5pw, oidc: "alice@" any of these means alice; a token of another domain's is nobody's then
	FoldCase    bool     `mapstructure:"fold_case"`    // principal, krb5pw, oidc, ldap: names differ in nothing but case (Active Directory)

	Realm   string   `mapstructure:"realm"`   // krb5pw: whose users' passwords
	KDCs    []string `mapstructure:"kdcs"`    // krb5pw: host or host:port, asked in this order over TCP; port 88 when there is none
	Service string   `mapstructure:"service"` // krb5pw: our principal without realm, whose key in the keytab tells a false KDC; the keytab's first of pop/HOST or pop3/HOST when empty
	Domain  string   `mapstructure:"domain"`  // krb5pw: logins are "alice@" this and nothing else, their maildrops too: a realm beside the site's own; none when empty

	Program string   `mapstructure:"program"` // checkpassword: absolute path
	Args    []string `mapstructure:"args"`    // checkpassword: its arguments
	AtOnce  int      `mapstructure:"at_once"` // checkpassword: programs that run at the same time; 16 when zero

	CertificateRules []CertificateRule `mapstructure:"certificate_rules"` // certificate: how a name in it becomes a login; the first that matches decides

	List     string         `mapstructure:"list"`     // allow, deny: path of a file with a login on each line
	Groups   []string       `mapstructure:"groups"`   // allow, deny: whose members are on the list
	Networks []netip.Prefix `mapstructure:"networks"` // allow, deny: whose clients are on the list

	CA      string        `mapstructure:"ca"`      // oidc, ldap: path of the CA certificates of the servers that are asked; the system's when empty
	Timeout time.Duration `mapstructure:"timeout"` // oidc, ldap: for one server to answer one question; oidc 5s, ldap 3s when zero
	LDAP    `mapstructure:",squash"`
	OIDC    `mapstructure:",squash"`
	Remote  `mapstructure:",squash"`
	Cached  `mapstructure:",squash"`
}

// CertificateRule makes a login of a name in a client certificate.
type CertificateRule struct {
	From   string `mapstructure:"from"`   // cn, dn, email or upn: the common name, the whole subject as RFC 4514 writes it, alternative names
	Match  string `mapstructure:"match"`  // regular expression that matches all of that name
	Login  string `mapstructure:"login"`  // what becomes of it, $1 is the first group; the whole name when empty
	Issuer string `mapstructure:"issuer"` // for certificates of this issuer alone, as RFC 4514 writes it; of any when empty
}

// Where the replay cache is kept.
const ReplayMemory = "memory"

// Kerberos is how tickets are accepted, for KPOP and GSSAPI alike.
type Kerberos struct {
	Keytab         string        `mapstructure:"keytab"`          // file; Kerberos is off when empty, unless remote is set
	Remote         string        `mapstructure:"remote"`          // verifier of type remote whose helper has the keytab
	Services       []string      `mapstructure:"services"`        // first components of service principals; pop and pop3 when empty
	Hosts          []string      `mapstructure:"hosts"`           // second components; any that the keytab has a key for when empty
	ClockSkew      time.Duration `mapstructure:"clock_skew"`      // allowed difference to the client's clock
	Enctypes       []string      `mapstructure:"enctypes"`        // the four AES ones when empty; rc4-hmac must be named
	ReplayCache    string        `mapstructure:"replay_cache"`    // file that outlives a restart, or "memory"
	KeytabReload   time.Duration `mapstructure:"keytab_reload"`   // how often a changed keytab is looked for; zero means on SIGHUP only
	CheckAddresses bool          `mapstructure:"check_addresses"` // compare addresses in tickets that hold any
}

// KPOP is the exchange before the greeting of a kpop listener.
type KPOP struct {
	AppVersions      []string      `mapstructure:"app_versions"`      // application versions that clients may send; KPOPV1.0 when empty, "*" any
	HandshakeTimeout time.Duration `mapstructure:"handshake_timeout"` // for the whole exchange
}

// GSSAPI is the SASL mechanism (RFC 4752), and GSS-SPNEGO but for the layers.
type GSSAPI struct {
	Layers         []string `mapstructure:"layers"`          // none, integrity, privacy; none when empty
	ChannelBinding string   `mapstructure:"channel_binding"` // off, allow or require; allow when empty
}

// SCRAM is its four mechanisms (RFC 5802, RFC 7677).
type SCRAM struct {
	ChannelBinding string `mapstructure:"channel_binding"` // off, allow or require; allow when empty
	SaltKey        string `mapstructure:"salt_key"`        // path of a key file, or credential:NAME, for the salts of users who do not exist; servers of one name need the same
	Iterations     int    `mapstructure:"iterations"`      // shown for such users where no file verifier, here or in a helper, knows what real ones have; 50000 when zero
}

// Credential begins the name of a systemd credential where else a path stands.
const Credential = "credential:"

// POP3 is what sessions on all listeners have in common.
type POP3 struct {
	Hostname    string `mapstructure:"hostname"`     // in the APOP timestamp; the machine's name when empty
	LenientUTF8 bool   `mapstructure:"lenient_utf8"` // answer UTF8 after login with +OK, as Outlook needs (against RFC 6856 section 2)
}

// Kinds of stores.
const (
	StoreMaildir = "maildir"
	StoreMbox    = "mbox" // spool files
)

// Who may take over a maildrop that is in use.
const (
	TakeoverNever       = "never"
	TakeoverDeadPeer    = "dead_peer"
	TakeoverSameAddress = "same_address"
)

// What becomes of deleted messages.
const (
	DeletedUnlink = "unlink"
	DeletedTrash  = "trash"
)

// Maildrops is where mail is.
type Maildrops struct {
	Type        string        `mapstructure:"type"`         // maildir or mbox; maildir when empty
	Root        string        `mapstructure:"root"`         // directory that holds every maildrop
	Layout      string        `mapstructure:"layout"`       // of one maildrop below the root: {user}, {local}, {domain}, {user:1} for a first octet
	Create      bool          `mapstructure:"create"`       // maildir: make a missing maildrop; otherwise it is an error, as a lost mount looks the same
	Owner       uint32        `mapstructure:"owner"`        // user id that must own all mail; zero means any
	TrustSizes  bool          `mapstructure:"trust_sizes"`  // maildir: take sizes on the wire from ",W=" in file names
	Takeover    string        `mapstructure:"takeover"`     // of a maildrop in use, by a login of the same user: never; dead_peer, from a session whose client no longer answers the network; same_address, from those too that have the same address. The other session ends as if its client had hung up: nothing is deleted
	CacheMemory int           `mapstructure:"cache_memory"` // maildir: MiB for listings that are kept between sessions; zero means none. A message takes about 90 octets; what is not kept is read from the maildrop's index
	ScanWait    time.Duration `mapstructure:"scan_wait"`    // maildir: that a login waits for a maildrop that is read for the first time, less than clients wait; then it is told to try later, and the maildrop is read on

	State    string        `mapstructure:"state"`     // mbox: directory of the server's own for indexes, journals and session locks
	Locks    []string      `mapstructure:"locks"`     // mbox: fcntl and dotlock, in the order of the delivery agent; fcntl, then dotlock when empty
	LockWait time.Duration `mapstructure:"lock_wait"` // mbox: for locks of others; 30s when zero

	UIDL           string `mapstructure:"uidl"`            // the server that was here before, whose unique-ids are kept: auto, dovecot, courier or another scheme of package uidl; our own when empty
	UIDLDuplicates string `mapstructure:"uidl_duplicates"` // of ids that it gave twice: suffix (id-2, id-3) or allow; suffix when empty

	Deleted         string `mapstructure:"deleted"`          // what becomes of deleted messages: unlink; or trash, where kpopd restore finds them: kpopd-trash beneath the maildrop, which quotas of file systems count
	TrashDays       int    `mapstructure:"trash_days"`       // that the trash is kept; kpopd expire empties it
	ExpireArrived   int    `mapstructure:"expire_arrived"`   // days after which messages expire: since they arrived, at the earliest when kpopd saw them first; zero means never
	ExpireRetrieved int    `mapstructure:"expire_retrieved"` // days after which they expire: since a session that retrieved them ended with QUIT; zero means never
	ExpireAtQuit    bool   `mapstructure:"expire_at_quit"`   // what a session retrieved goes when it ends with QUIT, as if the client had deleted it
	ExpireNever     bool   `mapstructure:"expire_never"`     // tell clients that nothing expires
}

// Expires says that messages are not kept for ever.
func (m Maildrops) Expires() bool {
	return m.ExpireArrived > 0 || m.ExpireRetrieved > 0 || m.ExpireAtQuit
}

// Expire is what EXPIRE announces (RFC 2449 section 6.7): the least that every
// message is kept, in days. It is empty where nothing is announced.
func (m Maildrops) Expire() string {
	switch {
	case m.ExpireNever:
		return "NEVER"
	case m.ExpireAtQuit:
		return "0"
	case m.ExpireRetrieved > 0: // less than ExpireArrived, where there is one
		return strconv.Itoa(m.ExpireRetrieved)
	case m.ExpireArrived > 0:
		return strconv.Itoa(m.ExpireArrived)
	}
	return ""
}

// Limits bounds what clients can use up.
type Limits struct {
	Connections   int           `mapstructure:"connections"`     // at once, all listeners; zero means as many as file descriptors allow
	PerAddress    int           `mapstructure:"per_address"`     // at once from one IPv4 address or IPv6 /64; zero means no limit
	PreAuth       int           `mapstructure:"pre_auth"`        // at once not logged in, half of connections at most; a newcomer replaces the oldest; zero means no limit
	LoginTimeout  time.Duration `mapstructure:"login_timeout"`   // from greeting to login, in all
	IdleTimeout   time.Duration `mapstructure:"idle_timeout"`    // between commands; RFC 1939 section 3 asks for 10 min at least
	DeadPeer      time.Duration `mapstructure:"dead_peer"`       // after which a client that has gone without a word is found out, and its maildrop is free; from 8s to 12h, and write_timeout where that is longer, which slow clients may take
	WriteTimeout  time.Duration `mapstructure:"write_timeout"`   // for the next octets of a reply to be taken by the client
	DrainTimeout  time.Duration `mapstructure:"drain_timeout"`   // for downloads under way when the server stops
	Failures      int           `mapstructure:"failures"`        // refused logins before the connection is closed
	Attempts      int           `mapstructure:"attempts"`        // logins before the connection is closed, whatever became of them
	LoginDelay    time.Duration `mapstructure:"login_delay"`     // between two logins of a user, announced as LOGIN-DELAY; zero means none. Users are remembered in memory: a restart forgets them
	LoginDelayMax time.Duration `mapstructure:"login_delay_max"` // the most that a user's own delay may be, where verifiers know one (login_delay= in a users file); zero means that all users have login_delay
	Hashes        int           `mapstructure:"hashes"`          // password hashes computed at once, all verifiers together; zero means the number of processors
	HashMemory    int           `mapstructure:"hash_memory"`     // MiB that those may need together; one that needs more is computed alone. The process takes up to twice as much, until what was used is collected
	HashWait      time.Duration `mapstructure:"hash_wait"`       // for a login that waits to have its hash computed; then the client is told to try later
}

// Throttle slows down those who guess passwords. Failures are counted by address
// (IPv4 /32, IPv6 /64), by network (/24, /48) and by user; each count halves in
// HalfLife. Where a count exceeds what is free the attempts that follow are spaced,
// further with each failure, and refused unjudged with [SYS/TEMP] when they would
// wait for more than MaxWait. No account is ever locked, and at an address where a
// user has logged in within 30 days what others do delays him last.
//
// The defaults suit a campus behind one NAT address. With 5,000 clients there that
// poll every 10 min, one in a hundred with an old password, the address has 5
// failures a minute, and its count settles at 72 (a rate times HalfLife by ln 2).
// 200 leaves room for three times as many; a guesser behind the address gets
// through those 200 once, then some 1,300 an hour for all names together, and at
// one user 10 at once and 120 an hour. Users who have logged in from the address
// before are delayed there at ten times the count.
type Throttle struct {
	Off             bool           `mapstructure:"off"`              // count nothing, delay nobody
	AddressFailures int            `mapstructure:"address_failures"` // of one address before attempts from it are spaced; zero means never
	NetworkFailures int            `mapstructure:"network_failures"` // of one network; zero means never
	UserFailures    int            `mapstructure:"user_failures"`    // for one user, from wherever he is not known; and at each address where he is; zero means never
	HalfLife        time.Duration  `mapstructure:"half_life"`        // in which a count halves
	MaxDelay        time.Duration  `mapstructure:"max_delay"`        // between two attempts, at the most
	MaxWait         time.Duration  `mapstructure:"max_wait"`         // that a login is held for; clients give up after 30 to 60 s
	AddressRate     int            `mapstructure:"address_rate"`     // logins of one address a second, good ones too, ten times as many at once; zero means any number
	Exempt          []netip.Prefix `mapstructure:"exempt"`           // networks whose addresses are not counted, only their users: web mail, proxies
	Entries         int            `mapstructure:"entries"`          // addresses, networks, users that are remembered, of each so many; each takes up to 300 octets, 70 MiB in all when full
}

// Log is what is told on standard error.
type Log struct {
	Level  string `mapstructure:"level"`  // debug, info, warn or error
	Format string `mapstructure:"format"` // text or json; a reload does not change it
}

// Default is every value that an absent key has.
func Default() Config {
	return Config{
		Kerberos: Kerberos{
			ClockSkew:    5 * time.Minute, // what every Kerberos implementation allows
			ReplayCache:  ReplayMemory,
			KeytabReload: 30 * time.Second,
		},
		KPOP:   KPOP{HandshakeTimeout: 30 * time.Second},
		GSSAPI: GSSAPI{ChannelBinding: "allow"},
		SCRAM:  SCRAM{ChannelBinding: "allow"},
		Maildrops: Maildrops{
			Type:        StoreMaildir,
			Layout:      "{user}",
			Takeover:    TakeoverNever,
			CacheMemory: 128, // 10,000 users with 1,000 messages each need no more: most of their listings come from the index, in 0.1 ms
			Deleted:     DeletedUnlink,
			TrashDays:   14,
			ScanWait:    25 * time.Second, // some clients give up after 30 s
		},
		Limits: Limits{
			PerAddress:   256,
			PreAuth:      1024,
			LoginTimeout: time.Minute,
			IdleTimeout:  10 * time.Minute,
			DeadPeer:     4 * time.Minute,
			WriteTimeout: time.Minute,
			DrainTimeout: 30 * time.Second,
			Failures:     3,
			Attempts:     128, // as many as an SSH server has; failures ends most sessions long before
			HashMemory:   256, // 13 hashes of kpopd passwd's argon2id, 16 of its yescrypt
			HashWait:     10 * time.Second,
		},
		Throttle: Throttle{
			AddressFailures: 200,
			NetworkFailures: 1000,
			UserFailures:    10,
			HalfLife:        10 * time.Minute,
			MaxDelay:        30 * time.Second,
			MaxWait:         10 * time.Second,
			AddressRate:     50,
			Entries:         1 << 16,
		},
		Log: Log{Level: "info", Format: "text"},
	}
}

// File is the path that the configuration was read from.
func (c *Config) File() string { return c.file }
