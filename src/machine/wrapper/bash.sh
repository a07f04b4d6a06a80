# The code is at the end of `code`. It runs in a bash of its own; this one says how it ended.
code() {
trap - INT QUIT
shopt -s execfail
exec 8>&-@@cwd@@
exec 9<<'@@end@@' || exit 125
@@code@@
@@end@@
exec @@env@@"${BASH:-bash}" -c 'IFS= read -rd "" -u 9 actix_sandbox_code; set -- "$actix_sandbox_code" "$@"; unset actix_sandbox_code; exec 9<&-; eval "shift; $1"' "$0"@@args@@
exit 125
}

# Servers kill the process that they started, which is this one: then the guard kills the code.
{ exec 8> >(trap "" HUP INT QUIT TERM PIPE ALRM USR1 USR2
read -r child && { read -r || kill -KILL "$child"; }) ; } >/dev/null 2>&1
guard=$!

child= signal= looked= jobs= waits=
forward() { signal=1; kill -s "$1" "$child"; }
trap 'forward HUP' HUP; trap 'forward INT' INT; trap 'forward QUIT' QUIT; trap 'forward TERM' TERM
trap 'signal=1' PIPE ALRM USR1 USR2

# 137 may be `exit 137` or SIGKILL: only the list of jobs tells, and only until the end is waited for.
look() { [[ $looked ]] || kill -0 "$child" || { looked=1; jobs=$(LC_ALL=C jobs -l); }; }

code <&0 &
child=$!
exec 2>/dev/null
echo "$child" >&8
trap look CHLD
look
while signal=; wait "$child"; status=$?; [[ $signal ]]; do :; done
echo >&8
wait "$guard"

end="exit $status"
if ((status > 128 && status <= 192)) && [[ $jobs != *" $child Exit $status "* ]]; then
end="signal $((status - 128))"
fi
# A child may have left stdout so that a full pipe is an error.
until printf '\036actix-sandbox %s %s\036' @@nonce@@ "$end"; do
((++waits < 600)) || break
sleep 0.1
done
exit "$status"
