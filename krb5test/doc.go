// Package krb5test is Kerberos for tests and for the demo: a KDC in the
// process that real clients work with, tickets that no honest KDC would issue,
// and MIT's KDC where that is installed.
//
// It does not import "testing", as the demo is part of the program. Nothing in
// it is fit to guard anything: passwords are in memory in the clear, and there
// is no throttling.
package krb5test
