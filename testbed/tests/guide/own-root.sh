#!/bin/sh
# own-root.sh ROOT DATA HOSTS COMMAND...: runs COMMAND where /data is DATA and /etc/hosts is HOSTS.
# Everything else is the machine's own. Expects to be in a mount namespace of its own, whose end
# takes the mounts away. ROOT is an empty folder.
set -eu
root=$1 data=$2 hosts=$3
shift 3
mount -t tmpfs own-root "$root"
for entry in /*; do
    name=${entry#/}
    if [ -L "$entry" ]; then
        cp -a "$entry" "$root/$name"
    elif [ "$name" = etc ]; then
        # Copied, since a file in a folder of the machine's can't be replaced everywhere.
        mkdir "$root/etc"
        cp -a /etc/. "$root/etc/" 2>/dev/null || true
    elif [ -d "$entry" ] && [ "$name" != data ]; then
        mkdir "$root/$name"
        mount --rbind "$entry" "$root/$name"
    fi
done
rm -f "$root/etc/hosts"
cp "$hosts" "$root/etc/hosts"
mkdir "$root/data"
mount --bind "$data" "$root/data"
# The parent-death signal is lost on the way through the namespaces.
exec setpriv --pdeathsig KILL chroot "$root" "$@"
