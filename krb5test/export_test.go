package krb5test

// Answer is what the KDC says to a request.
func (k *KDC) Answer(b []byte) []byte { return k.answer(b) }
