#!/bin/sh
# Installs Streamsend from this folder, where there is no package for the system: binaries, units, man pages, completions, the user
# and the folders. Run it as root. A configuration that is there already stays as it is; run it again to upgrade.
#
#     ./install.sh              installs
#     ./install.sh --remove     takes away what it installed; state, configuration and files stay
#
# It needs libssl 3 and, for the units, systemd 252 or later. PREFIX is always /: the units name their programs.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ "$(id -u)" = 0 ] || { echo "install.sh: run it as root" >&2; exit 77; }
systemd=no
[ ! -d /run/systemd/system ] || systemd=yes

if [ "${1:-}" = --remove ]; then
    [ $systemd = no ] || systemctl stop 'streamsend-uploader*.service' 'streamsend-downloader*.service' || true
    (cd "$here" && find usr -type f) | while read -r file; do rm -f "/$file"; done
    rm -rf /usr/share/doc/streamsend
    [ $systemd = no ] || systemctl daemon-reload
    echo "removed; /etc/streamsend, /var/lib/streamsend, /var/spool/streamsend and /srv/streamsend are as they were"
    exit 0
fi

missing=$(ldd "$here/usr/bin/streamsend-uploader" | sed -n 's/^\s*\(.*\) => not found$/\1/p')
[ -z "$missing" ] || { echo "install.sh: libraries are missing: $missing" >&2; exit 69; }
(cd "$here" && find usr -type f) | while read -r file; do
    mkdir -p "/${file%/*}"
    # Under another name first: a running program's file cannot be written to, but replaced.
    cp -p "$here/$file" "/$file.new" && chown root:root "/$file.new" && mv -f "/$file.new" "/$file"
done
if command -v systemd-sysusers >/dev/null; then
    systemd-sysusers streamsend.conf
else
    getent group streamsend-files >/dev/null || groupadd --system streamsend-files
    getent passwd streamsend >/dev/null ||
        useradd --system --user-group --home-dir /var/lib/streamsend --no-create-home --shell /usr/sbin/nologin streamsend
fi
mkdir -p /etc/streamsend
for file in uploader.yaml downloader.yaml; do
    [ -e "/etc/streamsend/$file" ] || install -m 640 -o root -g streamsend "$here/etc/streamsend/$file" "/etc/streamsend/$file"
done
if command -v systemd-tmpfiles >/dev/null; then
    systemd-tmpfiles --create streamsend.conf || true
else
    install -d -m 750 -o streamsend -g streamsend /var/log/streamsend
    install -d -m 700 -o streamsend -g streamsend /var/lib/streamsend/uploader /var/lib/streamsend/downloader
    install -d -m 3770 -o streamsend -g streamsend-files /var/spool/streamsend
    install -d -m 2750 -o streamsend -g streamsend-files /srv/streamsend
    install -d -m 700 /etc/streamsend/credentials
fi
[ $systemd = no ] || systemctl daemon-reload
echo "installed. Edit /etc/streamsend/uploader.yaml or downloader.yaml, then: systemctl enable --now streamsend-uploader (or -downloader)"
