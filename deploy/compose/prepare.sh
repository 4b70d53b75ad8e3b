#!/bin/sh
# Make what compose.yaml mounts: a certificate authority of your own, a certificate for the node named opensearch, and
# empty key files. What is there stays. Needs openssl.
set -eu
cd "${1:-$(dirname "$0")}"
mkdir -p certificates secrets
# Others on this machine stop at the folders; the users inside the containers read the mounted files.
chmod 700 certificates secrets
touch secrets/shelfrank-keys secrets/prometheus-key
cd certificates
if [ ! -f ca.pem ]; then
    openssl req -x509 -new -newkey rsa:3072 -noenc -sha256 -days 3650 -subj "/O=shelfrank/CN=shelfrank CA" \
        -keyout ca-key.pem -out ca.pem 2>/dev/null
    chmod 600 ca-key.pem
fi
if [ ! -f node.pem ]; then
    extensions=$(mktemp)
    printf '%s\n' 'subjectAltName = DNS:opensearch, DNS:localhost, IP:127.0.0.1' \
        'extendedKeyUsage = serverAuth, clientAuth' 'basicConstraints = CA:FALSE' >"$extensions"
    openssl req -new -newkey rsa:3072 -noenc -sha256 -subj "/O=shelfrank/CN=opensearch" -keyout node-key.pem 2>/dev/null |
        openssl x509 -req -sha256 -days 825 -CA ca.pem -CAkey ca-key.pem -CAcreateserial -extfile "$extensions" \
            -out node.pem 2>/dev/null
    rm -f "$extensions"
fi
chmod 644 ca.pem node.pem node-key.pem ../secrets/*
echo "certificates and secrets are in $(dirname "$PWD")"
