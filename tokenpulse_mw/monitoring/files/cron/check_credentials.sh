#!/bin/sh
# Check the credentials of all providers of a gateway:
#
#   check_credentials.sh [URL]
#
# Prints one line with the time and the names of inactive providers. Exit codes are those of Nagios
# plugins: 0 all are active, 1 some are inactive, 2 invalid arguments, 3 unknown, for example because
# the gateway is down. The command is the Python interpreter that wrote this file.
set -u
date -u +%Y-%m-%dT%H:%M:%SZ | tr '\n' ' '
exec __SHELL_COMMAND__ check credentials "${1:-http://__FROM_HERE__}"
