#!/bin/sh
# Installs the gateway on a server with systemd: user and group, a virtual environment with the wheel, folders, the
# unit, a file for secrets, completion in bash. Run it again to upgrade, or with an older wheel to go back.
#
#   make wheel && sudo deploy/install.sh
#   sudo deploy/install.sh --uninstall
#
# `deploy/install.sh --help` lists the options.
set -eu
# The service runs as another user, who must be able to read what is installed, whatever root's umask is.
umask 022

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
checkout=$(dirname -- "$here")
root=${DESTDIR:-}
prefix=/opt/gateway
etc=/etc/gateway
state=/var/lib/gateway
user=gateway
python=python3
wheel=
extras=
purge=no
work=install

usage() {
  cat <<USAGE
Usage: install.sh [OPTION]...

  --wheel FILE     the wheel to install (default: the newest in dist/)
  --extras NAMES   extras of the wheel, such as grpc
  --python FILE    Python 3.11 or later, with its venv module (default: python3)
  --root DIR       install into a folder, for an image or a package (default: \$DESTDIR, or /)
  --uninstall      remove what was installed; keep $etc, $state and the user
  --purge          with --uninstall: also remove these
  --help           this text
USAGE
}

say() { printf '%s\n' "$*"; }
fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

while [ $# -gt 0 ]; do
  case $1 in
    --wheel | --extras | --python | --root)
      [ $# -ge 2 ] || fail "$1 takes a value"
      case $1 in
        --wheel) wheel=$2 ;;
        --extras) extras=$2 ;;
        --python) python=$2 ;;
        --root) root=$2 ;;
      esac
      shift
      ;;
    --uninstall) work=uninstall ;;
    --purge) purge=yes ;;
    --help)
      usage
      exit 0
      ;;
    *) fail "there is no option $1; see --help" ;;
  esac
  shift
done
[ "$purge" = no ] || [ "$work" = uninstall ] || fail "--purge goes with --uninstall"
root=${root%/}
case $root in
  "" | /*) ;;
  *) root=$PWD/$root ;;
esac

# Only the running system has users and services; into a folder, files alone are installed.
live() { [ -z "$root" ]; }
running_systemd() { live && [ -d /run/systemd/system ]; }

if live && [ "$(id -u)" -ne 0 ]; then
  fail "this needs root: run it with sudo, or install into a folder with --root DIR"
fi

own() {
  # The group may not be known outside of the system that is installed.
  if live; then chown "root:$user" "$1"; fi
}

write() { # FILE MODE: the standard input becomes the file
  mkdir -p "$(dirname -- "$1")"
  cat >"$1.new"
  chmod "$2" "$1.new"
  mv -f "$1.new" "$1"
}

install_all() {
  if [ -z "$wheel" ]; then
    # The newest by time: names do not sort as versions do.
    # shellcheck disable=SC2012
    wheel=$(ls -t "$checkout"/dist/gateway-*.whl 2>/dev/null | head -n 1)
    [ -n "$wheel" ] || fail "there is no wheel in $checkout/dist: run make wheel, or name one with --wheel FILE"
  fi
  [ -f "$wheel" ] || fail "$wheel is not a file"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
    || fail "$python is not Python 3.11 or later: name one with --python FILE"
  "$python" -c 'import venv, ensurepip' 2>/dev/null \
    || fail "$python has no venv module: install it (Debian: apt-get install python3-venv)"

  if live; then
    if ! getent group "$user" >/dev/null; then
      say "group $user"
      groupadd --system "$user"
    fi
    if ! getent passwd "$user" >/dev/null; then
      say "user $user, who cannot log in"
      useradd --system --gid "$user" --home-dir / --no-create-home --shell /usr/sbin/nologin "$user"
    fi
  fi
  say "$root/usr/lib/sysusers.d/gateway.conf: the user, for images that start with it"
  write "$root/usr/lib/sysusers.d/gateway.conf" 644 <<CONF
u $user - "Gateway" / /usr/sbin/nologin
CONF

  say "$root$prefix: $(basename -- "$wheel") for $("$python" --version)"
  fresh=no
  if [ ! -x "$root$prefix/bin/python" ]; then
    fresh=yes
    "$python" -m venv "$root$prefix"
  fi
  constraints=
  [ ! -f "$checkout/constraints.txt" ] || constraints=$checkout/constraints.txt
  pip() {
    "$root$prefix/bin/python" -m pip --disable-pip-version-check install --quiet --root-user-action ignore \
      ${constraints:+--constraint "$constraints"} "$@"
  }
  pip --only-binary :all: "$wheel${extras:+[$extras]}"
  # The same version may have been built anew, and pip would keep what is there.
  [ "$fresh" = yes ] || pip --no-deps --no-index --force-reinstall "$wheel"
  if [ -n "$root" ]; then
    # Scripts begin with the path at which they will be.
    for script in "$root$prefix"/bin/*; do
      if [ -f "$script" ] && [ ! -L "$script" ]; then sed -i "s|$root$prefix|$prefix|g" "$script"; fi
    done
  fi
  version=$("$root$prefix/bin/python" -m gateway --version) || fail "what was installed does not run"
  say "$version"
  mkdir -p "$root/usr/local/bin"
  ln -sf "$prefix/bin/gateway" "$root/usr/local/bin/gateway"

  say "$root/usr/share/bash-completion/completions/gateway: completion in bash"
  _GATEWAY_COMPLETE=source_bash "$root$prefix/bin/python" -m gateway \
    | write "$root/usr/share/bash-completion/completions/gateway" 644

  say "$root$etc: for the configuration, readable by group $user alone"
  mkdir -p "$root$etc"
  chmod 750 "$root$etc"
  own "$root$etc"
  if [ ! -e "$root$etc/gateway.env" ]; then
    say "$root$etc/gateway.env: for secrets, mode 0640"
    write "$root$etc/gateway.env" 640 <<'ENV'
# Secrets of the gateway, one NAME=value a line. gateway.yaml names them as ${NAME}.
ENV
    own "$root$etc/gateway.env"
  fi

  say "$root/etc/systemd/system/gateway.service"
  sed "s|/opt/gateway|$prefix|g" "$here/gateway.service" | write "$root/etc/systemd/system/gateway.service" 644
  if running_systemd; then systemctl daemon-reload; fi

  say ""
  say "Installed. Next, as root:"
  say "  gateway init --config $etc/gateway.yaml --migrate"
  say "  systemctl enable --now gateway"
}

uninstall_all() {
  if running_systemd; then
    say "stopping the service"
    systemctl disable --now gateway.service 2>/dev/null || true
  fi
  for path in /etc/systemd/system/gateway.service /usr/local/bin/gateway /usr/lib/sysusers.d/gateway.conf \
    /usr/share/bash-completion/completions/gateway "$prefix"; do
    if [ -e "$root$path" ] || [ -L "$root$path" ]; then
      say "removing $root$path"
      rm -rf -- "$root$path"
    fi
  done
  if running_systemd; then systemctl daemon-reload; fi
  if [ "$purge" = yes ]; then
    for path in "$etc" "$state"; do
      if [ -e "$root$path" ]; then
        say "removing $root$path"
        rm -rf -- "$root$path"
      fi
    done
    if live && getent passwd "$user" >/dev/null; then
      say "removing user $user"
      userdel "$user"
    fi
  else
    say "$root$etc, $root$state and the user $user stay; --purge removes them, too"
  fi
}

"${work}_all"
