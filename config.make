# The module's objects need more than nginx's own flags: a C11 dialect, our
# include roots, and symbols that stay inside (nginx opens modules with
# RTLD_GLOBAL). The build id is a digest of the sources that module and engine
# share; it lies where nginx keeps its generated headers.

ngx_infer_cflags="-std=gnu11 -fvisibility=hidden -ffp-contract=off"
ngx_infer_cflags="$ngx_infer_cflags -I$ngx_addon_dir/engine"
ngx_infer_cflags="$ngx_infer_cflags -I$ngx_addon_dir/ngx_module -I$NGX_OBJS"
ngx_infer_cflags="$ngx_infer_cflags -D_GNU_SOURCE"
ngx_infer_id=$NGX_OBJS/infer_build_id.h

cat << END                                                >> $NGX_MAKEFILE

$ngx_infer_id:	$ngx_infer_deps $ngx_infer_srcs
	sh $ngx_addon_dir/engine/ipc/build_id.sh > $ngx_infer_id.new
	cmp -s $ngx_infer_id.new $ngx_infer_id \\
	    || cp $ngx_infer_id.new $ngx_infer_id
	rm -f $ngx_infer_id.new

END

for ngx_src in $ngx_infer_srcs
do
    ngx_obj="$NGX_OBJS/addon/`basename \`dirname $ngx_src\``"
    ngx_obj="$ngx_obj/`basename $ngx_src .c`.$ngx_objext"

    cat << END                                            >> $NGX_MAKEFILE
$ngx_obj:	| $ngx_infer_id
$ngx_obj:	CFLAGS += $ngx_infer_cflags
END
done

for ngx_obj in $NGX_OBJS/addon/ipc/bus.$ngx_objext
do
    cat << END                                            >> $NGX_MAKEFILE
$ngx_obj:	$ngx_infer_id
END
done
