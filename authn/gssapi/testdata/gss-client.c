/*
 * The client side of SASL GSSAPI (RFC 4752) for tests, with the GSSAPI of the
 * library that it is compiled with. Messages are lines of hexadecimal digits:
 * challenges on the input, responses on the output, an empty line is an empty
 * message.
 *
 *   gss-client [-m] [-n] [-i] [-l LAYER] [-a AUTHZID] [-b BINDING] [-s SIZE] SERVICE@HOST
 *
 *   -m  mutual authentication
 *   -n  GSS-SPNEGO: negotiate, and agree on nothing behind it
 *   -i  take a MIC over "list" behind the login, and make one
 *   -l  layer to choose: 1, 2 or 4
 *   -a  authzid
 *   -b  application data of the channel bindings
 *   -s  size of the longest token that is taken
 *
 * Behind the login each line of input is a token of the layer; what it holds
 * is wrapped and sent back, until the input ends.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <gssapi/gssapi.h>

static gss_OID_desc krb5 = { 9, (void *)"\x2a\x86\x48\x86\xf7\x12\x01\x02\x02" };
static gss_OID_desc spnego = { 6, (void *)"\x2b\x06\x01\x05\x05\x02" };
static gss_OID mech = &krb5;
static gss_ctx_id_t ctx = GSS_C_NO_CONTEXT;

static void check(const char *what, OM_uint32 major, OM_uint32 minor)
{
	OM_uint32 ignored, more = 0;
	gss_buffer_desc text;

	if (!GSS_ERROR(major))
		return;
	gss_display_status(&ignored, minor, GSS_C_MECH_CODE, mech, &more, &text);
	fprintf(stderr, "%s: %#x: %.*s\n", what, (unsigned)major, (int)text.length, (char *)text.value);
	exit(1);
}

static int receive(gss_buffer_t message)
{
	static char line[1 << 20];
	static unsigned char octets[1 << 19];
	unsigned octet;
	size_t n;

	if (fgets(line, sizeof line, stdin) == NULL)
		return 0;
	for (n = 0; sscanf(line + 2 * n, "%2x", &octet) == 1; n++)
		octets[n] = octet;
	message->value = octets;
	message->length = n;
	return 1;
}

static void transmit(const gss_buffer_desc *message)
{
	size_t i;

	for (i = 0; i < message->length; i++)
		printf("%02x", ((unsigned char *)message->value)[i]);
	putchar('\n');
	fflush(stdout);
}

static void must_receive(gss_buffer_t message)
{
	if (!receive(message)) {
		fprintf(stderr, "the server said nothing more\n");
		exit(2);
	}
}

static void establish(const char *service, OM_uint32 flags, const char *binding)
{
	struct gss_channel_bindings_struct channel;
	gss_buffer_desc name, in = GSS_C_EMPTY_BUFFER, out;
	gss_name_t target;
	OM_uint32 major, minor;

	memset(&channel, 0, sizeof channel);
	if (binding != NULL) {
		channel.application_data.value = (void *)binding;
		channel.application_data.length = strlen(binding);
	}
	name.value = (void *)service;
	name.length = strlen(service);
	major = gss_import_name(&minor, &name, GSS_C_NT_HOSTBASED_SERVICE, &target);
	check("gss_import_name", major, minor);
	do {
		major = gss_init_sec_context(&minor, GSS_C_NO_CREDENTIAL, &ctx, target, mech, flags, 0,
		                             binding != NULL ? &channel : GSS_C_NO_CHANNEL_BINDINGS,
		                             &in, NULL, &out, NULL, NULL);
		check("gss_init_sec_context", major, minor);
		if (out.length > 0 || mech == &spnego || (flags & GSS_C_MUTUAL_FLAG))
			transmit(&out); /* what answers the last token is empty */
		if (major == GSS_S_CONTINUE_NEEDED)
			must_receive(&in);
	} while (major == GSS_S_CONTINUE_NEEDED);
}

static void choose(int layer, long size, const char *authzid)
{
	gss_buffer_desc in, plain, out;
	unsigned char answer[1024];
	OM_uint32 major, minor;
	int sealed;

	must_receive(&in);
	major = gss_unwrap(&minor, ctx, &in, &plain, &sealed, NULL);
	check("gss_unwrap of the offer", major, minor);
	if (plain.length != 4 || sealed) {
		fprintf(stderr, "offer of %d octets, sealed %d\n", (int)plain.length, sealed);
		exit(3);
	}
	fprintf(stderr, "offered %02x\n", ((unsigned char *)plain.value)[0]);
	answer[0] = layer;
	answer[1] = size >> 16;
	answer[2] = size >> 8;
	answer[3] = size;
	strcpy((char *)answer + 4, authzid);
	plain.value = answer;
	plain.length = 4 + strlen(authzid);
	major = gss_wrap(&minor, ctx, 0, GSS_C_QOP_DEFAULT, &plain, NULL, &out);
	check("gss_wrap of the choice", major, minor);
	transmit(&out);
}

static void sign(void)
{
	gss_buffer_desc in, out, list = { 4, (void *)"list" };
	OM_uint32 major, minor;

	must_receive(&in);
	major = gss_verify_mic(&minor, ctx, &list, &in, NULL);
	check("gss_verify_mic", major, minor);
	if (major != GSS_S_COMPLETE) {
		fprintf(stderr, "gss_verify_mic: %#x\n", (unsigned)major); /* out of order */
		exit(5);
	}
	major = gss_get_mic(&minor, ctx, GSS_C_QOP_DEFAULT, &list, &out);
	check("gss_get_mic", major, minor);
	transmit(&out);
}

static void echo(int layer)
{
	gss_buffer_desc in, plain, out;
	OM_uint32 major, minor;
	int sealed;

	while (receive(&in)) {
		major = gss_unwrap(&minor, ctx, &in, &plain, &sealed, NULL);
		check("gss_unwrap", major, minor);
		if (sealed != (layer == 4)) {
			fprintf(stderr, "token of another layer\n");
			exit(4);
		}
		major = gss_wrap(&minor, ctx, layer == 4, GSS_C_QOP_DEFAULT, &plain, NULL, &out);
		check("gss_wrap", major, minor);
		transmit(&out);
		gss_release_buffer(&minor, &plain);
		gss_release_buffer(&minor, &out);
	}
}

int main(int argc, char **argv)
{
	OM_uint32 flags = GSS_C_SEQUENCE_FLAG | GSS_C_REPLAY_FLAG | GSS_C_INTEG_FLAG | GSS_C_CONF_FLAG;
	const char *authzid = "", *binding = NULL;
	int option, signs = 0, layer = 1;
	long size = 0;

	while ((option = getopt(argc, argv, "mnil:a:b:s:")) != -1)
		switch (option) {
		case 'm': flags |= GSS_C_MUTUAL_FLAG; break;
		case 'n': mech = &spnego; break;
		case 'i': signs = 1; break;
		case 'l': layer = atoi(optarg); break;
		case 'a': authzid = optarg; break;
		case 'b': binding = optarg; break;
		case 's': size = atol(optarg); break;
		default: return 1;
		}
	if (optind >= argc || strlen(authzid) > 1000)
		return 1;
	establish(argv[optind], flags, binding);
	if (mech == &krb5)
		choose(layer, size, authzid);
	if (signs)
		sign();
	echo(layer);
	return 0;
}
