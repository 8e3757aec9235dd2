package krb5test

// ErrEnded is a KDC that ends.
var ErrEnded = errEnded
