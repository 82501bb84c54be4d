/*
 * linear_avxvnni.c: linear layers of the avxvnni level, vpdpbusd in its VEX
 * encoding.
 */

#define DOT_NAME  kern_linear_avxvnni
#define DOT_VNNI  1

#include "x86/body_dot256.h"
