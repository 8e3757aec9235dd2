// Package krb5test is a Kerberos realm to test against: a KDC inside the
// process, a starter for MIT's KDC where it is installed, and a mint for
// tickets that no honest KDC would issue.
//
// The in-process [KDC] serves the real kinit, kvno and both C libraries over
// UDP and TCP on loopback. It keeps everything in memory, trusts its caller and
// is no KDC for production: the demo and the tests are its only users.
//
// # Design notes
//
// The package does not import the testing package, so that the demo can use
// it.
package krb5test
