/* The barest encrypting NBD server: what coffer is measured against, not a server to use.
 *
 *     cc -O2 -o floor floor.c -lcrypto -lpthread
 *     ./floor SOCKET FILE
 *
 * A thread for each connection: it takes all requests that one recv brings, does them one after another with pread, pwrite
 * and OpenSSL's AES-256-XTS over 4096-byte sectors, and answers all of them by one send. Nothing else: no limits, no
 * checks of who calls, no holes (what was never written reads as noise), one key for as long as it runs. FLUSH and FUA are
 * fdatasync, TRIM punches a hole. It ends by a signal.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { SECTOR = 4096, LARGEST = 4 << 20, BUFFER = LARGEST + (1 << 20) };
enum { READ, WRITE, DISC, FLUSH, TRIM };
enum { FLAGS = 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 8 }; /* has flags, FLUSH, FUA, TRIM, several connections */

struct __attribute__((packed)) request { uint32_t magic; uint16_t flags, type; uint64_t cookie, offset; uint32_t length; };
struct __attribute__((packed)) reply { uint32_t magic, error; uint64_t cookie; };

static int file;
static uint64_t size;
static unsigned char key[64];

static int get(int s, void *to, size_t n) { return recv(s, to, n, MSG_WAITALL) == (ssize_t)n ? 0 : -1; }

static int put(int s, const void *from, size_t n) {
    for (const char *p = from; n > 0;) {
        ssize_t sent = send(s, p, n, MSG_NOSIGNAL);
        if (sent <= 0) return -1;
        p += sent, n -= sent;
    }
    return 0;
}

static int option_reply(int s, uint32_t option, uint32_t type, const void *data, uint32_t n) {
    struct __attribute__((packed)) { uint64_t magic; uint32_t option, type, n; } head =
        {htobe64(0x3e889045565a9), htobe32(option), htobe32(type), htobe32(n)};
    return put(s, &head, sizeof head) || put(s, data, n);
}

/* Fixed newstyle negotiation: EXPORT_NAME, GO, INFO; everything else is refused. */
static int negotiate(int s) {
    struct __attribute__((packed)) { uint64_t magic, option; uint16_t flags; } hello =
        {htobe64(0x4e42444d41474943), htobe64(0x49484156454f5054), htobe16(3)};
    struct __attribute__((packed)) { uint64_t magic; uint32_t option, n; } ask;
    struct __attribute__((packed)) { uint64_t size; uint16_t flags; char zeros[124]; } old = {htobe64(size), htobe16(FLAGS), {0}};
    struct __attribute__((packed)) { uint16_t type; uint64_t size; uint16_t flags; } info = {0, htobe64(size), htobe16(FLAGS)};
    struct __attribute__((packed)) { uint16_t type; uint32_t least, best, most; } block =
        {htobe16(3), htobe32(SECTOR), htobe32(SECTOR), htobe32(LARGEST)};
    uint32_t client;
    char text[8192];
    if (put(s, &hello, sizeof hello) || get(s, &client, 4)) return -1;
    for (;;) {
        if (get(s, &ask, sizeof ask)) return -1;
        uint32_t option = be32toh(ask.option), n = be32toh(ask.n);
        if (n > sizeof text || (n > 0 && get(s, text, n))) return -1;
        switch (option) {
        case 1: return put(s, &old, be32toh(client) & 2 ? 10 : sizeof old);
        case 2: return -1;
        case 6:
        case 7:
            if (option_reply(s, option, 3, &info, sizeof info) || option_reply(s, option, 3, &block, sizeof block) ||
                option_reply(s, option, 1, "", 0))
                return -1;
            if (option == 7) return 0;
            break;
        default:
            if (option_reply(s, option, 0x80000001, "", 0)) return -1;
        }
    }
}

static void sectors(EVP_CIPHER_CTX *ctx, uint64_t offset, unsigned char *data, size_t n) {
    for (size_t at = 0; at < n; at += SECTOR) {
        uint64_t tweak[2] = {htole64((offset + at) / SECTOR), 0};
        int done;
        EVP_CipherInit_ex(ctx, NULL, NULL, NULL, (unsigned char *)tweak, -1);
        EVP_CipherUpdate(ctx, data + at, &done, data + at, SECTOR);
    }
}

/* One request; its payload, if any, is at `data`. A read's bytes go to `out`. The error for the reply. */
static int act(const struct request *r, EVP_CIPHER_CTX *seal, EVP_CIPHER_CTX *open, unsigned char *data, unsigned char *out) {
    uint64_t offset = be64toh(r->offset), n = be32toh(r->length);
    if (offset % SECTOR || n % SECTOR || n > size || offset > size - n) return EINVAL;
    switch (be16toh(r->type)) {
    case READ:
        if (pread(file, out, n, offset) != (ssize_t)n) return EIO;
        sectors(open, offset, out, n);
        return 0;
    case WRITE:
        sectors(seal, offset, data, n);
        if (pwrite(file, data, n, offset) != (ssize_t)n) return EIO;
        return be16toh(r->flags) & 1 && fdatasync(file) ? EIO : 0;
    case FLUSH: return fdatasync(file) ? EIO : 0;
    case TRIM: return fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, n) ? EIO : 0;
    default: return EINVAL;
    }
}

static void serve(int s, EVP_CIPHER_CTX *seal, EVP_CIPHER_CTX *open, unsigned char *in, unsigned char *out) {
    size_t have = 0;
    for (;;) {
        ssize_t got = recv(s, in + have, BUFFER - have, 0);
        if (got <= 0) return;
        have += got;
        size_t at = 0, ready = 0;
        while (have - at >= sizeof(struct request)) {
            struct request r;
            memcpy(&r, in + at, sizeof r);
            int type = be16toh(r.type);
            size_t n = be32toh(r.length), payload = type == WRITE ? n : 0, answer = type == READ ? n : 0;
            if (be32toh(r.magic) != 0x25609513 || (type != TRIM && n > LARGEST) || type == DISC) return;
            if (have - at < sizeof r + payload) break;
            if (ready + sizeof(struct reply) + answer > BUFFER) {
                if (put(s, out, ready)) return;
                ready = 0;
            }
            int error = act(&r, seal, open, in + at + sizeof r, out + ready + sizeof(struct reply));
            struct reply head = {htobe32(0x67446698), htobe32(error), r.cookie};
            memcpy(out + ready, &head, sizeof head);
            ready += sizeof head + (error ? 0 : answer);
            at += sizeof r + payload;
        }
        if (ready > 0 && put(s, out, ready)) return;
        memmove(in, in + at, have -= at);
    }
}

static void *connection(void *arg) {
    int s = (int)(intptr_t)arg, bytes = 1 << 20;
    setsockopt(s, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    setsockopt(s, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    EVP_CIPHER_CTX *seal = EVP_CIPHER_CTX_new(), *open = EVP_CIPHER_CTX_new();
    EVP_CipherInit_ex(seal, EVP_aes_256_xts(), NULL, key, NULL, 1);
    EVP_CipherInit_ex(open, EVP_aes_256_xts(), NULL, key, NULL, 0);
    unsigned char *in = malloc(BUFFER), *out = malloc(BUFFER);
    if (in && out && negotiate(s) == 0) serve(s, seal, open, in, out);
    free(in), free(out);
    EVP_CIPHER_CTX_free(seal), EVP_CIPHER_CTX_free(open);
    close(s);
    return NULL;
}

int main(int argc, char **argv) {
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    struct stat st;
    if (argc != 3 || strlen(argv[1]) >= sizeof name.sun_path) return fprintf(stderr, "usage: floor SOCKET FILE\n"), 2;
    strcpy(name.sun_path, argv[1]);
    file = open(argv[2], O_RDWR | O_CLOEXEC);
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (file < 0 || fstat(file, &st) || listener < 0 || bind(listener, (struct sockaddr *)&name, sizeof name) ||
        listen(listener, 64) || getrandom(key, sizeof key, 0) != sizeof key)
        return perror("floor"), 1;
    size = st.st_size / SECTOR * SECTOR;
    for (;;) {
        int s = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        pthread_t thread;
        if (s < 0) continue;
        if (pthread_create(&thread, NULL, connection, (void *)(intptr_t)s)) close(s);
        else pthread_detach(thread);
    }
}
