# The code is between the lines with `@@end@@`. It runs in a bash of its own;
# this one becomes a Python that says how it ended.
end() {
printf '\036actix-sandbox %s exit %s\036' @@nonce@@ "$1"
exit "$1"
}
shopt -s execfail@@cwd@@
exec 9<<'@@end@@' || end 125
@@code@@
@@end@@
set -- @@env@@"${BASH:-bash}" -c 'IFS= read -rd "" -u 9 actix_sandbox_code; set -- "$actix_sandbox_code" "$@"; unset actix_sandbox_code; exec 9<&-; eval "shift; $1"' "$0"@@args@@
hash python3 2>/dev/null && exec python3 -ISc '@@supervisor@@

def run():
    # Python sets it for itself where no locale is set.
    if not sys.argv[2]:
        os.environ.pop("LC_CTYPE", None)
    os.execvp(sys.argv[3], sys.argv[3:])

supervise(sys.argv[1], run)' @@nonce@@ "${LC_CTYPE+set}" "$@"
# Without Python, signal 9 looks like `exit 137`.
"$@"
end "$?"
