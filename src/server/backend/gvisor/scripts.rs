//! The scripts that run in a sandbox beside its code. They are in perl, which starts fast and is
//! part of every Debian system.

/// The directory of the scripts in the sandbox.
pub(super) const SOURCE_INSIDE: &str = "/run/source";

/// A script and the name of its file.
#[derive(Clone, Copy)]
pub(super) struct Script {
    pub(super) name: &'static str,
    pub(super) text: &'static str,
}

impl Script {
    /// The path of the script in the sandbox.
    pub(super) fn inside(self) -> String {
        format!("{SOURCE_INSIDE}/{}", self.name)
    }
}

pub(super) const ALL: [Script; 4] = [INIT, RUN, KILL, FREEZE];

/// The first process of the container. It ignores SIGCHLD, so orphaned processes don't stay as
/// zombies.
pub(super) const INIT: Script = Script {
    name: "init.pl",
    text: r#"
$SIG{$_} = 'IGNORE' for qw(CHLD TERM INT HUP);
sleep while 1;
"#,
};

/// Runs code, and ends with the same exit code or signal. Its command line is
/// `$0 NUMBER SOURCE ENVIRONMENT CODE INTERPRETER ARGUMENTS…`.
///
/// - The file ENVIRONMENT holds variables for the environment of the code. This script doesn't get
///   them: variables such as `PERL5OPT` would break it.
/// - The code is copied from SOURCE, a file of the machine, to CODE, a file of the sandbox. Either
///   file may be removed while a process still has it open. A checkpoint can't hold a removed file
///   of the machine that is open.
/// - The script forwards data between the pipes of the exec, which belong to the machine, and pipes
///   of the sandbox, which the code gets. A checkpoint can hold the latter if children of the code
///   still have them open. A blocking write to them is never cut short, which programs rely on,
///   such as unbuffered Python.
/// - If children still have these pipes open when the code ends, a process stays that forwards
///   their output. A checkpoint ends that process, because it has pipes of the machine open. Then a
///   second process takes over, and drops the output.
/// - If an exit code is 128 or more, the script creates the file `/run/exit/NUMBER`. Without this
///   file, the server takes such a code for a signal.
pub(super) const RUN: Script = Script {
    name: "run.pl",
    text: r#"
my ($number, $source, $environment, $code, @command) = @ARGV;
my @variables;
{
  local $/;
  open my $pairs, '<', $environment or die "$environment: $!\n";
  @variables = split /\0/, scalar <$pairs> // '';
  open my $from, '<', $source or die "$source: $!\n";
  open my $to, '>', $code or die "$code: $!\n";
  print $to scalar <$from> or die "$code: $!\n";
  close $to or die "$code: $!\n";
}
splice @command, 1, 0, $code;
pipe my $in, my $input and pipe my $output, my $out and pipe my $errors, my $err and pipe my $ended, my $end
  or die "cannot make pipes: $!\n";
$SIG{CHLD} = sub { syswrite $end, '.' };
my $child = fork;
defined $child or die "cannot start a process: $!\n";
unless ($child) {
  $SIG{CHLD} = 'DEFAULT';
  # The code may send signals to its process group.
  setpgrp 0, 0;
  open STDIN, '<&', $in;
  open STDOUT, '>&', $out;
  open STDERR, '>&', $err;
  for (@variables) { my ($name, $value) = split /=/, $_, 2; $ENV{$name} = $value }
  exec { $command[0] } @command or print STDERR "$command[0]: $!\n";
  exit 127;
}
close $_ for $in, $out, $err;
$SIG{PIPE} = 'IGNORE';
# 4: F_SETFL, 3: F_GETFL, 2048: O_NONBLOCK
fcntl $_, 4, fcntl($_, 3, 0) | 2048 for \*STDIN, $input, $output, \*STDOUT, $errors, \*STDERR;
my @ways = map { { from => $_->[0], to => $_->[1], data => '' } }
  [\*STDIN, $input], [$output, \*STDOUT], [$errors, \*STDERR];

sub shut { my $way = shift; close $way->{to}; $way->{from} = $way->{to} = undef; $way->{data} = '' }
sub take {
  my $way = shift;
  my $count = sysread $way->{from}, $way->{data}, 65536;
  return $count if defined $count or $!{EAGAIN} or $!{EINTR};
  return 0;
}
sub give {
  my $way = shift;
  my $count = syswrite $way->{to}, $way->{data};
  return substr $way->{data}, 0, $count, '' if defined $count;
  shut($way) unless $!{EAGAIN} or $!{EINTR};
}
my $status;
until (defined $status) {
  my ($readable, $writable) = ('', '');
  vec($readable, fileno $ended, 1) = 1;
  for (@ways) {
    next unless $_->{to};
    if (length $_->{data}) { vec($writable, fileno $_->{to}, 1) = 1 }
    else { vec($readable, fileno $_->{from}, 1) = 1 }
  }
  next if select($readable, $writable, undef, undef) < 0;
  for (@ways) {
    next unless $_->{to};
    if (length $_->{data}) { give($_) if vec $writable, fileno $_->{to}, 1 }
    elsif (vec $readable, fileno $_->{from}, 1) {
      my $count = take($_);
      if (defined $count and !$count) { shut($_) }
      elsif (length $_->{data}) { give($_) }
    }
  }
  if (vec $readable, fileno $ended, 1) {
    sysread $ended, my $dots, 64;
    # WNOHANG
    $status = $? if waitpid($child, 1) == $child;
  }
}
shut($ways[0]) if $ways[0]{to};
my @outputs = grep { $_->{to} } @ways[1, 2];

# Waits for data, at most $wait seconds if defined, and forwards it. Returns 0 on a timeout.
sub pass {
  my ($readable, $writable) = ('', '');
  for (@outputs) {
    if (length $_->{data}) { vec($writable, fileno $_->{to}, 1) = 1 }
    else { vec($readable, fileno $_->{from}, 1) = 1 }
  }
  my $wait = shift;
  my $ready = select $readable, $writable, undef, $wait;
  return 0 if $ready <= 0;
  for (@outputs) {
    if (length $_->{data}) { give($_) if vec $writable, fileno $_->{to}, 1 }
    elsif (vec $readable, fileno $_->{from}, 1) {
      my $count = take($_);
      if (defined $count and !$count) { shut($_) }
      elsif (length $_->{data}) { give($_) }
    }
  }
  @outputs = grep { $_->{to} } @outputs;
  return 1;
}
# Output may never stop, and the end must be reported. So forward only a limited amount now.
for (1 .. 64) { last unless @outputs and pass(0) }
my $relay = @outputs ? fork : 1;
unless (defined $relay) {
  # The sandbox has reached its limit of processes. The end is reported late, but no output is lost.
  1 while @outputs and (pass(undef) or $!{EINTR});
}
if (defined $relay and $relay == 0) {
  close STDIN; close $input; close $end; close $ended;
  $SIG{CHLD} = 'IGNORE';
  pipe my $gone, my $alive or exit 1;
  my $heir = fork;
  if ($heir or !defined $heir) {
    # The children's pipes stay open for reading as long as this process or its heir lives.
    close $gone;
    1 while @outputs and (pass(undef) or $!{EINTR});
    exit 0;
  }
  close $alive; close STDOUT; close STDERR;
  sysread $gone, my $end, 1;
  for (@outputs) {
    fcntl $_->{from}, 4, fcntl($_->{from}, 3, 0) & ~2048;
  }
  my @held = map { $_->{from} } @outputs;
  while (@held) {
    my $readable = '';
    vec($readable, fileno $_, 1) = 1 for @held;
    select $readable, undef, undef, undef;
    @held = grep { !vec($readable, fileno $_, 1) or sysread $_, my $dropped, 65536 } @held;
  }
  exit 0;
}
unlink $code;
my ($exit, $signal) = ($status >> 8, $status & 127);
if ($signal) {
  $SIG{PIPE} = $SIG{CHLD} = 'DEFAULT';
  kill $signal, $$;
  sleep;
}
if ($exit >= 128) { open my $file, '>', "/run/exit/$number" }
exit $exit;
"#,
};

/// Kills processes by a variable in their environment, and their descendants, until none is left.
/// Its command line is `$0 VARIABLE=VALUE`.
pub(super) const KILL: Script = Script {
    name: "kill.pl",
    text: r#"
my $mark = "\0$ARGV[0]\0";
for my $pass (1 .. 200) {
  my (%parent, %hit);
  for my $directory (glob '/proc/[0-9]*') {
    my ($pid) = $directory =~ /(\d+)/;
    next if $pid == 1 or $pid == $$;
    open my $stat, '<', "$directory/stat" or next;
    my ($state, $parent) = (<$stat> // '') =~ /.*\) (\S) (\d+)/ or next;
    next if $state =~ /[ZX]/;
    $parent{$pid} = $parent;
    local $/;
    open my $environ, '<', "$directory/environ" or next;
    $hit{$pid} = 1 if index("\0" . (<$environ> // ''), $mark) >= 0;
  }
  my $more = 1;
  while ($more) {
    $more = 0;
    for (keys %parent) { $more = $hit{$_} = 1 if !$hit{$_} and $hit{$parent{$_}} }
  }
  exit 0 unless %hit;
  kill 9, keys %hit;
  select undef, undef, undef, 0.005;
}
exit 1;
"#,
};

/// Kills the processes that have pipes of the machine open, which a checkpoint can't hold. Exits
/// with 3 if other processes are left, and with 0 if there are none.
pub(super) const FREEZE: Script = Script {
    name: "freeze.pl",
    text: r#"
for my $pass (1 .. 200) {
  my ($held, $others) = (0, 0);
  for my $directory (glob '/proc/[0-9]*') {
    my ($pid) = $directory =~ /(\d+)/;
    next if $pid == 1 or $pid == $$;
    open my $stat, '<', "$directory/stat" or next;
    my ($state) = (<$stat> // '') =~ /.*\) (\S)/ or next;
    next if $state =~ /[ZX]/;
    $others = 1;
    next unless grep { (readlink // '') =~ /^host:/ } glob "$directory/fd/*";
    $held = 1;
    kill 9, $pid;
  }
  exit($others ? 3 : 0) unless $held;
  select undef, undef, undef, 0.005;
}
exit 1;
"#,
};
