# net-pop3.pl PORT HOW USER PASSWORD FILE TAKE - collect all mail with Net::POP3.
# HOW is APOP, USER or a SASL mechanism. What was got is deleted when TAKE is
# true. The conversation goes to standard error.
use strict;
use warnings;
use Net::POP3;

my ($port, $how, $user, $password, $file, $take) = @ARGV;
my $pop = Net::POP3->new('localhost', Port => $port, Timeout => 20, Debug => 1) or die "connect: $@\n";
my $count;
if    ($how eq 'APOP') { $count = $pop->apop($user, $password) }
elsif ($how eq 'USER') { $count = $pop->login($user, $password) }
else {
    require Authen::SASL;
    $count = $pop->auth(Authen::SASL->new(
        mechanism => $how,
        callback  => { user => $user, authname => $user, pass => $password },
    ));
}
defined $count or die 'refused: ' . $pop->message . "\n";
open my $out, '>:raw', $file or die "$file: $!\n";
my $sizes = $pop->list;
for my $n (sort { $a <=> $b } keys %$sizes) {
    my $lines = $pop->get($n) or die "message $n: " . $pop->message . "\n";
    print $out @$lines;
    $pop->delete($n) if $take eq 'true';
}
close $out or die "$file: $!\n";
$pop->quit;
