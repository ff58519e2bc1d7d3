/* A stand-in for the V4L2 devices below OpenCV, loaded with LD_PRELOAD: it answers their ioctls and select().

A regular file whose name ends in ".v4l2" is a device. The driver's buffers lie in that file, so that mmap() and close() are the real ones. Words in the
name set up the camera, for example "left+shift8+start300.v4l2":
  shiftN  its frames come N ms after the grid of 30 Hz that all devices share      startN  the first frame comes N ms after STREAMON
  stopN   no frame comes after the first N                                         slow    10 Hz, whatever rate is requested
  yuyv    no MJPEG                                                                 busy    buffers cannot be had, as while another program streams
A frame is the file NAME.jpg beside the device, if it gives MJPEG. NAME.controls receives the exposure: mode and time in 100 us. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/videodev2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_BUFFERS 8
#define BUFFER_BYTES (1 << 20)
#define PERIOD_NS 33333333LL

struct buffer { int queued, filled, number; long long at_ns; };
struct device {
    int fd, streaming, frames, count;
    unsigned width, height, format;
    long long shift_ns, start_ns, period_ns, next_ns;
    int stop, yuyv, busy, exposure_auto, exposure;
    char controls[600];
    size_t jpeg_bytes;
    char *jpeg;
    struct buffer buffers[MAX_BUFFERS];
};
static struct device devices[4];

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static long long word(const char *name, const char *key, long long otherwise) {
    const char *found = strstr(name, key);
    return found ? atoll(found + strlen(key)) : otherwise;
}

static struct device *device_of(int fd, int create) {
    char link[64], path[512], jpeg[600];
    for (int i = 0; i < 4; i++)
        if (devices[i].fd == fd && devices[i].period_ns) return &devices[i];
    if (!create) return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 6) return NULL;
    path[length] = 0;
    if (strcmp(path + length - 5, ".v4l2")) return NULL;
    struct device *device = devices;
    while (device->period_ns) device++;
    const char *name = strrchr(path, '/') + 1;
    memset(device, 0, sizeof *device);
    device->fd = fd;
    device->shift_ns = word(name, "+shift", 0) * 1000000;
    device->start_ns = word(name, "+start", 0) * 1000000;
    device->stop = word(name, "+stop", 1 << 30);
    device->period_ns = strstr(name, "+slow") ? 3 * PERIOD_NS : PERIOD_NS;
    device->yuyv = strstr(name, "+yuyv") != NULL;
    device->busy = strstr(name, "+busy") != NULL;
    device->format = device->yuyv ? V4L2_PIX_FMT_YUYV : V4L2_PIX_FMT_MJPEG;
    device->width = 640;
    device->height = 480;
    snprintf(jpeg, sizeof jpeg, "%s.jpg", path);
    snprintf(device->controls, sizeof device->controls, "%s.controls", path);
    FILE *file = fopen(jpeg, "rb");
    if (file) {
        device->jpeg = malloc(BUFFER_BYTES);
        device->jpeg_bytes = fread(device->jpeg, 1, BUFFER_BYTES, file);
        fclose(file);
    }
    return device;
}

/* Fill the queued buffers with all frames until now; a frame that finds no buffer is dropped, as real drivers do. */
static void run(struct device *device) {
    long long now = now_ns();
    for (; device->streaming && device->next_ns <= now && device->frames < device->stop; device->next_ns += device->period_ns) {
        struct buffer *oldest = NULL;
        for (int i = 0; i < device->count; i++) {
            struct buffer *buffer = &device->buffers[i];
            if (buffer->queued && !buffer->filled && (!oldest || buffer->number < oldest->number)) oldest = buffer;
        }
        if (oldest) {
            oldest->filled = 1;
            oldest->at_ns = device->next_ns;
        }
        device->frames++;
    }
}

static struct buffer *ready(struct device *device) {
    struct buffer *first = NULL;
    run(device);
    for (int i = 0; i < device->count; i++) {
        struct buffer *buffer = &device->buffers[i];
        if (buffer->filled && (!first || buffer->at_ns < first->at_ns)) first = buffer;
    }
    return first;
}

static int answer(struct device *device, unsigned long request, void *argument) {
    static int numbers;
    switch (request) {
    case VIDIOC_QUERYCAP: {
        struct v4l2_capability *it = argument;
        memset(it, 0, sizeof *it);
        it->capabilities = V4L2_CAP_VIDEO_CAPTURE | V4L2_CAP_STREAMING;
        it->device_caps = it->capabilities;
        return 0;
    }
    case VIDIOC_G_FMT:
    case VIDIOC_S_FMT:
    case VIDIOC_TRY_FMT: {
        struct v4l2_pix_format *it = &((struct v4l2_format *)argument)->fmt.pix;
        if (request != VIDIOC_G_FMT && it->pixelformat != device->format) return errno = EINVAL, -1;
        if (request == VIDIOC_S_FMT) device->width = it->width, device->height = it->height;
        it->width = device->width;
        it->height = device->height;
        it->pixelformat = device->format;
        it->bytesperline = device->yuyv ? 2 * it->width : 0;
        it->sizeimage = device->yuyv ? 2 * it->width * it->height : BUFFER_BYTES;
        it->field = V4L2_FIELD_NONE;
        return 0;
    }
    case VIDIOC_G_PARM:
    case VIDIOC_S_PARM: {
        struct v4l2_captureparm *it = &((struct v4l2_streamparm *)argument)->parm.capture;
        it->capability = V4L2_CAP_TIMEPERFRAME;
        it->timeperframe.numerator = 1;
        it->timeperframe.denominator = 30; /* also if it is slow: a camera in the dark says so, too */
        return 0;
    }
    case VIDIOC_REQBUFS: {
        struct v4l2_requestbuffers *it = argument;
        if (device->busy) return errno = EBUSY, -1;
        if (it->count > MAX_BUFFERS) it->count = MAX_BUFFERS;
        device->count = it->count;
        memset(device->buffers, 0, sizeof device->buffers);
        return ftruncate(device->fd, MAX_BUFFERS * BUFFER_BYTES);
    }
    case VIDIOC_QUERYBUF: {
        struct v4l2_buffer *it = argument;
        if (it->index >= (unsigned)device->count) return errno = EINVAL, -1;
        it->length = BUFFER_BYTES;
        it->m.offset = it->index * BUFFER_BYTES;
        return 0;
    }
    case VIDIOC_QBUF: {
        struct v4l2_buffer *it = argument;
        run(device);
        device->buffers[it->index] = (struct buffer){.queued = 1, .number = numbers++};
        return 0;
    }
    case VIDIOC_DQBUF: {
        struct v4l2_buffer *it = argument;
        struct buffer *buffer = ready(device);
        if (!buffer) return errno = EAGAIN, -1;
        it->index = buffer - device->buffers;
        buffer->queued = buffer->filled = 0;
        it->length = BUFFER_BYTES;
        it->m.offset = it->index * BUFFER_BYTES;
        it->bytesused = device->yuyv ? 2 * device->width * device->height : device->jpeg_bytes;
        it->flags = V4L2_BUF_FLAG_TIMESTAMP_MONOTONIC;
        it->timestamp.tv_sec = buffer->at_ns / 1000000000;
        it->timestamp.tv_usec = buffer->at_ns % 1000000000 / 1000;
        if (!device->yuyv && pwrite(device->fd, device->jpeg, device->jpeg_bytes, it->m.offset) < 0) return -1;
        return 0;
    }
    case VIDIOC_QUERYCTRL: {
        struct v4l2_queryctrl *it = argument;
        if (it->id != V4L2_CID_EXPOSURE_AUTO && it->id != V4L2_CID_EXPOSURE_ABSOLUTE) return errno = EINVAL, -1;
        it->type = V4L2_CTRL_TYPE_INTEGER;
        it->minimum = 0;
        it->maximum = 10000;
        it->step = 1;
        it->flags = 0;
        return 0;
    }
    case VIDIOC_S_CTRL: {
        struct v4l2_control *it = argument;
        if (it->id == V4L2_CID_EXPOSURE_AUTO) device->exposure_auto = it->value;
        if (it->id == V4L2_CID_EXPOSURE_ABSOLUTE) device->exposure = it->value;
        FILE *file = fopen(device->controls, "w");
        if (!file) return -1;
        fprintf(file, "%d %d", device->exposure_auto, device->exposure);
        fclose(file);
        return 0;
    }
    case VIDIOC_STREAMON: {
        long long from_ns = now_ns() + device->start_ns - device->shift_ns;
        device->streaming = 1;
        device->next_ns = (from_ns / device->period_ns + 1) * device->period_ns + device->shift_ns;
        return 0;
    }
    case VIDIOC_STREAMOFF:
        device->streaming = 0;
        memset(device->buffers, 0, sizeof device->buffers);
        return 0;
    default:
        return errno = EINVAL, -1;
    }
}

int ioctl(int fd, unsigned long request, ...) {
    static int (*real)(int, unsigned long, ...);
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    if (!real) real = dlsym(RTLD_NEXT, "ioctl");
    struct device *device = device_of(fd, _IOC_TYPE(request) == 'V');
    return device && _IOC_TYPE(request) == 'V' ? answer(device, (unsigned int)request, argument) : real(fd, request, argument);
}

int select(int count, fd_set *reads, fd_set *writes, fd_set *others, struct timeval *timeout) {
    static int (*real)(int, fd_set *, fd_set *, fd_set *, struct timeval *);
    if (!real) real = dlsym(RTLD_NEXT, "select");
    struct device *device = count > 0 && reads && FD_ISSET(count - 1, reads) ? device_of(count - 1, 0) : NULL;
    if (!device) return real(count, reads, writes, others, timeout);
    long long end_ns = timeout ? now_ns() + timeout->tv_sec * 1000000000LL + timeout->tv_usec * 1000LL : 1LL << 62;
    while (!ready(device)) {
        if (now_ns() >= end_ns) {
            FD_ZERO(reads);
            return 0;
        }
        nanosleep(&(struct timespec){.tv_nsec = 500000}, NULL);
    }
    return 1;
}

int close(int fd) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "close");
    struct device *device = device_of(fd, 0);
    if (device) {
        free(device->jpeg);
        memset(device, 0, sizeof *device);
    }
    return real(fd);
}
