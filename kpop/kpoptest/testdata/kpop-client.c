/*
 * A KPOP client for tests: the handshake is krb5_sendauth() of the library
 * that it is compiled with, and POP3 commands come from the command line.
 *
 *   kpop-client [-n] [-e] [-k] [-s SERVICE] [-p PRINCIPAL] [-v VERSION] [-c DATA] HOST PORT [COMMAND ...]
 *
 *   -n  no mutual authentication
 *   -e  early: all commands in one write before the greeting is read
 *   -k  a subkey in the authenticator
 *   -s  first component of the server's principal, "pop" unless given
 *   -p  the server's principal as a whole
 *   -v  application version, "KPOPV1.0" unless given
 *   -c  data for the authenticator's checksum; without them there is none
 *
 * Lines go to the output behind "S: " and "C: ". Status: 0 every answer was
 * +OK, 1 it could not begin, 2 the handshake failed, 3 an answer was -ERR,
 * 4 the connection ended early.
 */
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <krb5.h>

enum { CANNOT_BEGIN = 1, REFUSED, NEGATIVE, CUT_OFF };

static void die(int status, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fputc('\n', stderr);
	exit(status);
}

static int dial(const char *host, const char *port)
{
	struct addrinfo want, *list, *a;
	int fd = -1;

	memset(&want, 0, sizeof want);
	want.ai_socktype = SOCK_STREAM;
	if (getaddrinfo(host, port, &want, &list) != 0)
		die(CANNOT_BEGIN, "no address for %s port %s", host, port);
	for (a = list; a != NULL && fd < 0; a = a->ai_next) {
		fd = socket(a->ai_family, a->ai_socktype, a->ai_protocol);
		if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) != 0) {
			close(fd);
			fd = -1;
		}
	}
	freeaddrinfo(list);
	if (fd < 0)
		die(CANNOT_BEGIN, "cannot connect to %s port %s", host, port);
	return fd;
}

/* What the server gave as its reason is spelt differently in each library. */
static void print_reason(const krb5_error *e)
{
#ifdef HEIMDAL
	if (e != NULL)
		fprintf(stderr, "server's error %d: %s\n", (int)(e->error_code - KRB5KDC_ERR_NONE), e->e_text != NULL ? *e->e_text : "");
#else
	if (e != NULL)
		fprintf(stderr, "server's error %d: %.*s\n", (int)e->error, (int)e->text.length, e->text.data != NULL ? e->text.data : "");
#endif
}

static void handshake(int fd, const char *principal, const char *host, const char *service,
                      const char *version, const char *sum, krb5_flags flags)
{
	krb5_context ctx;
	krb5_auth_context auth = NULL;
	krb5_principal server;
	krb5_error *reason = NULL;
	krb5_error_code code;
	krb5_data data;

	if ((code = krb5_init_context(&ctx)) != 0)
		die(CANNOT_BEGIN, "krb5_init_context: %d", (int)code);
	if (principal != NULL)
		code = krb5_parse_name(ctx, principal, &server);
	else
		code = krb5_sname_to_principal(ctx, host, service, KRB5_NT_SRV_HST, &server);
	if (code == 0)
		code = krb5_auth_con_init(ctx, &auth);
	if (code != 0)
		die(CANNOT_BEGIN, "principal: %s", krb5_get_error_message(ctx, code));
	memset(&data, 0, sizeof data);
	if (sum != NULL) {
		data.data = (void *)sum;
		data.length = strlen(sum);
	}
	code = krb5_sendauth(ctx, &auth, &fd, (char *)version, NULL, server, flags,
	                     sum != NULL ? &data : NULL, NULL, NULL, &reason, NULL, NULL);
	if (code != 0) {
		print_reason(reason);
		die(REFUSED, "krb5_sendauth: %s", krb5_get_error_message(ctx, code));
	}
}

static int is_listing(const char *command)
{
	if (strncasecmp(command, "RETR", 4) == 0 || strncasecmp(command, "TOP", 3) == 0 || strcasecmp(command, "CAPA") == 0)
		return 1;
	return strcasecmp(command, "LIST") == 0 || strcasecmp(command, "UIDL") == 0;
}

static char *read_line(FILE *from)
{
	static char line[65536];

	if (fgets(line, sizeof line, from) == NULL)
		die(CUT_OFF, "the server closed the connection");
	line[strcspn(line, "\r\n")] = '\0';
	printf("S: %s\n", line);
	return line;
}

/* read_reply reports whether it was positive. */
static int read_reply(FILE *from, int listing)
{
	if (strncmp(read_line(from), "+OK", 3) != 0)
		return 0;
	if (listing)
		while (strcmp(read_line(from), ".") != 0)
			;
	return 1;
}

int main(int argc, char **argv)
{
	const char *principal = NULL, *service = "pop", *version = "KPOPV1.0", *sum = NULL, *host;
	krb5_flags flags = AP_OPTS_MUTUAL_REQUIRED;
	int option, fd, i, early = 0, status = 0;
	FILE *from;

	while ((option = getopt(argc, argv, "+neks:p:v:c:")) != -1)
		switch (option) {
		case 'n': flags &= ~AP_OPTS_MUTUAL_REQUIRED; break;
		case 'e': early = 1; break;
		case 'k': flags |= AP_OPTS_USE_SUBKEY; break;
		case 's': service = optarg; break;
		case 'p': principal = optarg; break;
		case 'v': version = optarg; break;
		case 'c': sum = optarg; break;
		default: return CANNOT_BEGIN;
		}
	if (argc - optind < 2)
		die(CANNOT_BEGIN, "HOST and PORT are missing");
	host = argv[optind++];
	fd = dial(host, argv[optind++]);
	handshake(fd, principal, host, service, version, sum, flags);
	if ((from = fdopen(dup(fd), "r")) == NULL)
		die(CANNOT_BEGIN, "no memory");
	if (early)
		for (i = optind; i < argc; i++)
			dprintf(fd, "%s\r\n", argv[i]);
	if (!read_reply(from, 0))
		status = NEGATIVE;
	for (i = optind; i < argc; i++) {
		printf("C: %s\n", argv[i]);
		if (!early)
			dprintf(fd, "%s\r\n", argv[i]);
		if (!read_reply(from, is_listing(argv[i])))
			status = NEGATIVE;
	}
	return status;
}
